"""Networks: plain modules without Lightning."""

from sslam.networks.audio_vit import AudioViT, Encoder
from sslam.networks.conv_decoder import ConvDecoder
from sslam.networks.tdcn import TDCN, Separator

__all__ = ["TDCN", "AudioViT", "ConvDecoder", "Encoder", "Separator"]
