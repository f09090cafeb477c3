"""What watches a run: name these classes in ``trainer.callbacks``."""

from callbacks.collapse_monitor import CollapseMonitor
from callbacks.evaluation_results import EvaluationResults
from callbacks.loss_curves import LossCurves
from callbacks.online_probe import OnlineProbe
from callbacks.pretraining_picture import PretrainingPicture
from callbacks.retrieval_evaluation import RetrievalEvaluation
from callbacks.separation_picture import SeparationPicture
from callbacks.step_checkpoints import StepCheckpoints
from callbacks.stop_on_signal import StopOnSignal, StoppedBySignal
from callbacks.throughput import Throughput
from callbacks.training_progress import TrainingProgress

__all__ = [
    "CollapseMonitor",
    "EvaluationResults",
    "LossCurves",
    "OnlineProbe",
    "PretrainingPicture",
    "RetrievalEvaluation",
    "SeparationPicture",
    "StepCheckpoints",
    "StopOnSignal",
    "StoppedBySignal",
    "Throughput",
    "TrainingProgress",
]
