"""What watches a run: name these classes in ``trainer.callbacks``."""

from callbacks.collapse_monitor import CollapseMonitor
from callbacks.evaluation_results import EvaluationResults
from callbacks.loss_curves import LossCurves
from callbacks.pretraining_picture import PretrainingPicture
from callbacks.throughput import Throughput
from callbacks.training_progress import TrainingProgress

__all__ = ["CollapseMonitor", "EvaluationResults", "LossCurves", "PretrainingPicture", "Throughput", "TrainingProgress"]
