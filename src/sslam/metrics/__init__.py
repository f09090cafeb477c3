"""Metrics."""

from sslam.metrics.moments import Moments

__all__ = ["Moments"]
