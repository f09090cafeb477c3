"""Metrics."""

from sslam.metrics.classification import ClassificationMetrics, ClassificationResults, PolyphonyRow
from sslam.metrics.moments import Moments

__all__ = ["ClassificationMetrics", "ClassificationResults", "Moments", "PolyphonyRow"]
