"""Metrics."""

from sslam.metrics.classification import ClassificationMetrics, ClassificationResults, PolyphonyRow
from sslam.metrics.moments import Moments
from sslam.metrics.separation import MixtureImprovement, SeparationMetrics, SeparationResults

__all__ = [
    "ClassificationMetrics",
    "ClassificationResults",
    "MixtureImprovement",
    "Moments",
    "PolyphonyRow",
    "SeparationMetrics",
    "SeparationResults",
]
