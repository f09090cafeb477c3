"""Methods: one file is one method."""

from sslam.methods.fine_tune import FineTune
from sslam.methods.linear_probe import LinearProbe
from sslam.methods.mixit import MixIT
from sslam.methods.query_by_example import QueryByExample
from sslam.methods.separation_contrastive import SeparationContrastive
from sslam.methods.separation_evaluation import SeparationEvaluation
from sslam.methods.sslam import SSLAM
from sslam.stages import Objectives, Stage

__all__ = [
    "SSLAM",
    "FineTune",
    "LinearProbe",
    "MixIT",
    "Objectives",
    "QueryByExample",
    "SeparationContrastive",
    "SeparationEvaluation",
    "Stage",
]
