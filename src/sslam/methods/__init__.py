"""Methods: one file is one method."""

from sslam.methods.sslam import SSLAM
from sslam.stages import Objectives, Stage

__all__ = ["SSLAM", "Objectives", "Stage"]
