"""Weights: read ours and published ones without executing anything, and convert between them."""

from sslam.checkpoints.architecture import UserClasses
from sslam.checkpoints.loading import Checkpoint, load_encoder, load_pretraining_state, read_checkpoint
from sslam.checkpoints.separators import load_separator
from sslam.errors import CheckpointError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "UserClasses",
    "load_encoder",
    "load_pretraining_state",
    "load_separator",
    "read_checkpoint",
]
