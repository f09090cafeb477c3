"""Networks: plain modules without Lightning."""

from sslam.networks.audio_vit import AudioViT, Encoder
from sslam.networks.cnn14 import CNN14
from sslam.networks.conv_decoder import ConvDecoder
from sslam.networks.heads import ClassifierHead, CoincidenceHead, ProjectionHead
from sslam.networks.mean_features import MeanFeatures
from sslam.networks.readout import Readout
from sslam.networks.tdcn import TDCN, Separator
from sslam.networks.tdcn_stft import STFTTDCN

__all__ = [
    "CNN14",
    "STFTTDCN",
    "TDCN",
    "AudioViT",
    "ClassifierHead",
    "CoincidenceHead",
    "ConvDecoder",
    "Encoder",
    "MeanFeatures",
    "ProjectionHead",
    "Readout",
    "Separator",
]
