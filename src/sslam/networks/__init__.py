"""Networks: plain modules without Lightning."""

from sslam.networks.audio_vit import AudioViT, Encoder
from sslam.networks.cnn14 import CNN14
from sslam.networks.conv_decoder import ConvDecoder
from sslam.networks.heads import ClassifierHead, CoincidenceHead, ProjectionHead
from sslam.networks.mean_features import MeanFeatures
from sslam.networks.readout import Readout
from sslam.networks.separator import Separator
from sslam.networks.tdcn import TDCN
from sslam.networks.tdcn_stft import STFTTDCN
from sslam.networks.token_heads import AttentivePooling, PrototypicalPooling, TokenPooling

__all__ = [
    "CNN14",
    "STFTTDCN",
    "TDCN",
    "AttentivePooling",
    "AudioViT",
    "ClassifierHead",
    "CoincidenceHead",
    "ConvDecoder",
    "Encoder",
    "MeanFeatures",
    "ProjectionHead",
    "PrototypicalPooling",
    "Readout",
    "Separator",
    "TokenPooling",
]
