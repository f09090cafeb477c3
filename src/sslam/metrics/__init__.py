"""Metrics."""

from sslam.metrics.classification import ClassificationMetrics, ClassificationResults, PolyphonyRow
from sslam.metrics.loss_means import LossMeans
from sslam.metrics.moments import Moments, total
from sslam.metrics.position_means import PatchLosses, PositionMeans
from sslam.metrics.retrieval import RetrievalMetrics, RetrievalResults, RetrievalScores, query_by_example_map
from sslam.metrics.separated_clips import SeparatedClips, SeparationByClip
from sslam.metrics.separation import MixtureImprovement, SeparationMetrics, SeparationResults

__all__ = [
    "ClassificationMetrics",
    "ClassificationResults",
    "LossMeans",
    "MixtureImprovement",
    "Moments",
    "PatchLosses",
    "PolyphonyRow",
    "PositionMeans",
    "RetrievalMetrics",
    "RetrievalResults",
    "RetrievalScores",
    "SeparatedClips",
    "SeparationByClip",
    "SeparationMetrics",
    "SeparationResults",
    "query_by_example_map",
    "total",
]
