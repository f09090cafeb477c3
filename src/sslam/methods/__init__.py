"""Methods: one file is one method."""

from sslam.methods.sslam import SSLAM, Objectives, Stage

__all__ = ["SSLAM", "Objectives", "Stage"]
