"""Networks: plain modules without Lightning."""

from sslam.networks.audio_vit import AudioViT, Encoder
from sslam.networks.conv_decoder import ConvDecoder

__all__ = ["AudioViT", "ConvDecoder", "Encoder"]
