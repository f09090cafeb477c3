"""What linear probe and fine-tuning share: a linear head on an encoder's pooled tokens, and how it is evaluated.

Shape letters: B clips, L frames, F mel bins, W pooled width, C classes.
"""

import math
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from sslam.losses import ClassificationLoss
from sslam.methods.evaluated_encoder import EvaluatedEncoder
from sslam.metrics import ClassificationMetrics, ClassificationResults
from sslam.networks.audio_vit import LAYER_NORM_EPS
from sslam.networks.pooling import pooled_width
from sslam.report.results import EvaluationRecord, classification_arrays


class Classifier(EvaluatedEncoder):
    """A pre-trained encoder whose pooled tokens go through LayerNorm and a linear head.

    Args:
        loss: Of logits and labels.
        num_classes: Of the data.
        **kwargs: Of :class:`~sslam.methods.evaluated_encoder.EvaluatedEncoder`.

    Raises:
        ValueError: If there are fewer than two classes, or see
            :class:`~sslam.methods.evaluated_encoder.EvaluatedEncoder`.
    """

    def __init__(self, loss: ClassificationLoss, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}.")
        self.loss = loss
        self.num_classes = num_classes
        width = pooled_width(self.encoder.width, self.pooling)
        self.fc_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.head = new_head(width, num_classes)
        self.learning_rate = 0.0
        """Highest learning rate of the head; a method sets it."""
        self._loaded_training: dict[str, Any] = {}
        self.results: list[ClassificationResults] = []
        """Of the last evaluation on all clips of all processes; more than one where several heads were trained."""
        self._metrics: list[ClassificationMetrics] = []

    # ---- the classifier ---------------------------------------------------------------------------------------------

    def embed(self, features_BLF: Tensor) -> Tensor:
        """Pooled tokens (B, W) of normalised features."""
        # What follows is in the head's precision also under autocast.
        return self.pooled(features_BLF).to(self.fc_norm.weight.dtype)

    def forward(self, features_BLF: Tensor) -> Tensor:
        """Logits (B, C) of normalised features (B, L, F)."""
        return self.classify(self.embed(features_BLF))

    def classify(self, embedding_BW: Tensor) -> Tensor:
        """Logits (B, C) of pooled tokens (B, W)."""
        logits_BC: Tensor = self.head(self.fc_norm(embedding_BW))
        return logits_BC

    def all_logits(self, features_BLF: Tensor) -> list[Tensor]:
        """Logits (B, C) of every head that is evaluated."""
        return [self(features_BLF)]

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "predict" and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"{type(self.trainer.datamodule).__name__} has {len(self.class_names)} classes and the model "  # type: ignore[attr-defined]
                f"{self.num_classes}. Pass --model.num_classes {len(self.class_names)}."
            )

    def start_evaluation(self) -> None:
        single_label = getattr(self.trainer.datamodule, "single_label", False)  # type: ignore[attr-defined]
        self._metrics = [ClassificationMetrics(self.num_classes, single_label) for _ in range(self.num_heads)]

    @property
    def num_heads(self) -> int:
        """Heads that :meth:`all_logits` gives."""
        return 1

    def evaluation_step(self, batch: dict[str, Any]) -> None:
        features_BLF = self.frontend(batch["waveform"], batch.get("num_samples"))
        for metrics, logits_BC in zip(self._metrics, self.all_logits(features_BLF), strict=True):
            metrics.update(
                self.loss.log_probabilities(logits_BC), batch["labels"], batch["index"], batch.get("polyphony")
            )

    def finish_evaluation(self, split: str) -> None:
        # Every process gathers the scores of all and computes the same numbers.
        self.results = [metrics.compute() for metrics in self._metrics]
        self._metrics = []
        scalars = [results.scalars() for results in self.results]
        for name in scalars[0]:
            mean = sum(values[name] for values in scalars) / len(scalars)
            # The mean over processes is of equal numbers.
            self.log(f"{split}/{name}", mean, prog_bar=name == "map", sync_dist=True)

    def record(self, **origin: Any) -> EvaluationRecord:
        return EvaluationRecord.of(self.results, self.class_names, **origin)

    def score_arrays(self) -> dict[str, Any]:
        return classification_arrays(self.results)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Probabilities (B, C) and pooled tokens ``embedding`` (B, W) of whole clips, with the clips' ``index``."""
        embedding_BW = self.embed(self.frontend(batch["waveform"], batch.get("num_samples")))
        probabilities_BC = self.loss.log_probabilities(self.classify(embedding_BW)).exp()
        return {"index": batch["index"], "probabilities": probabilities_BC, "embedding": embedding_BW.float()}

    # ---- training ---------------------------------------------------------------------------------------------------

    def total_steps(self) -> int:
        """Optimizer steps of the whole training, which the learning rate follows.

        Raises:
            ValueError: If the training has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError(
                "The learning rate follows the length of training, and trainer.max_steps and trainer.max_epochs are "
                "both -1. Pass --trainer.max_steps or --trainer.max_epochs."
            )
        return int(steps)

    def training_facts(self) -> dict[str, Any]:
        """``epoch``, ``step``, ``seed`` and highest ``learning_rate`` of the training that the weights come from."""
        if self.trainer.ckpt_path and self.trainer.state.fn != TrainerFn.FITTING:
            return self._loaded_training
        return super().training_facts() | {"learning_rate": self.learning_rate}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Plain values, so that the classifier can be rebuilt from the file alone.
        checkpoint["architecture"] = {
            "encoder": self.encoder.architecture(),
            "frontend": self.frontend.architecture(),
            "head": {"pooling": self.pooling, "activation": self.loss.activation},
        }
        checkpoint["class_names"] = self.class_names
        checkpoint["provenance"] = self.provenance
        checkpoint["training"] = self.training_facts()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.provenance = checkpoint["provenance"]
        self._loaded_training = checkpoint["training"]


class Head(nn.Linear):
    """A linear layer that autocast leaves alone: scores rounded to bfloat16 tie, which moves average precision."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input)


def new_head(width: int, num_classes: int, generator: torch.Generator | None = None) -> Head:
    """A linear head as published: weights normal with standard deviation 0.02 (cut off far out), biases 0."""
    head = Head(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
    nn.init.zeros_(head.bias)
    return head
