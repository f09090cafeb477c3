"""What linear probe and fine-tuning share: an encoder, pooling, a linear head, and how they are evaluated.

Shape letters: B clips, T samples, L frames, F mel bins, P patches, D width, W pooled width, C classes.
"""

import math
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from sslam.checkpoints import load_encoder
from sslam.checkpoints.loading import file_sha256
from sslam.frontends import Frontend
from sslam.losses import ClassificationLoss
from sslam.metrics import ClassificationMetrics, ClassificationResults
from sslam.networks import AudioViT, Encoder
from sslam.networks.audio_vit import LAYER_NORM_EPS
from sslam.networks.pooling import Pooling, pool_tokens, pooled_width


class Classifier(pl.LightningModule):
    """A pre-trained encoder whose pooled tokens go through LayerNorm and a linear head.

    Args:
        frontend: Waveform (B, T) to features, in float32 on the batch's device; with the length and the statistics of
            the data at hand, which need not be those of pre-training.
        loss: Of logits and labels.
        num_classes: Of the data.
        initial_checkpoint: Where the encoder comes from: a run of pre-training or fine-tuning, a file that ``sslam
            convert`` wrote, or a published EAT or SSLAM file.
        weights: Which encoder of that file: the student (as published) or the teacher; ``random`` takes its
            architecture only, for the baseline that every pre-training must beat.
        encoder: Instead of ``initial_checkpoint``, an encoder with random weights.
        pooling: ``cls`` (as published), ``mean`` of the patches, or ``both``, one after the other.
        label: Name of the weights in tables, such as ``stage 1``; by default ``weights`` and the file's name.
        drop_path: Stochastic depth of the encoder's last block in training, rising linearly from the first one; an
            ``encoder`` that is given keeps its own.

    Raises:
        ValueError: If the encoder is given twice or not at all, cannot be read, or does not fit the front end.
    """

    def __init__(
        self,
        frontend: Frontend,
        loss: ClassificationLoss,
        num_classes: int,
        initial_checkpoint: str | None = None,
        weights: Literal["student", "teacher", "random"] = "student",
        encoder: Encoder | None = None,
        pooling: Pooling = "cls",
        label: str | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if (encoder is None) == (initial_checkpoint is None):
            raise ValueError(
                "A classifier needs an encoder, and one only: give --model.initial_checkpoint FILE (with "
                "--model.weights random for its architecture alone) or --model.encoder FILE.yaml."
            )
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}.")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and less than 1, got {drop_path}.")
        self.initial_checkpoint = initial_checkpoint
        self.weights = weights
        if initial_checkpoint is not None:
            encoder = load_encoder(
                initial_checkpoint, "teacher" if weights == "teacher" else "student", drop_path=drop_path
            )
            if weights == "random":
                encoder = AudioViT(**encoder.architecture(), drop_path=drop_path)  # type: ignore[arg-type]
        assert encoder is not None
        if frontend.num_mel_bins != encoder.num_mel_bins:
            raise ValueError(
                f"The front end's num_mel_bins must be the encoder's {encoder.num_mel_bins}, "
                f"got {frontend.num_mel_bins}."
            )
        self.frontend = frontend
        self.encoder = encoder
        self.loss = loss
        self.num_classes = num_classes
        self.pooling = pooling
        self.provenance: dict[str, Any] = {
            "label": label or self.default_label(),
            "weights": weights if initial_checkpoint is not None else "random",
            "path": initial_checkpoint,
            "sha256": None if initial_checkpoint is None else file_sha256(Path(initial_checkpoint)),
        }
        """Where the encoder comes from; a run that goes on keeps what it began with."""
        width = pooled_width(encoder.width, pooling)
        self.fc_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.head = new_head(width, num_classes)
        self.learning_rate = 0.0
        """Highest learning rate of the head; a method sets it."""
        self._loaded_training: dict[str, Any] = {}
        self.class_names: list[str] = []
        self.results: list[ClassificationResults] = []
        """Of the last evaluation on all clips of all processes; more than one where several heads were trained."""
        self._metrics: list[ClassificationMetrics] = []

    def default_label(self) -> str:
        """What tables call the weights if nothing else was given."""
        if self.initial_checkpoint is None or self.weights == "random":
            return "random weights"
        return f"{self.weights} of {Path(self.initial_checkpoint).stem}"

    # ---- the classifier ---------------------------------------------------------------------------------------------

    def embed(self, features_BLF: Tensor) -> Tensor:
        """Pooled tokens (B, W) of normalised features."""
        # What follows is in the head's precision also under autocast.
        return pool_tokens(self.encoder(features_BLF), self.pooling).to(self.fc_norm.weight.dtype)

    def forward(self, features_BLF: Tensor) -> Tensor:
        """Logits (B, C) of normalised features (B, L, F)."""
        logits_BC: Tensor = self.head(self.fc_norm(self.embed(features_BLF)))
        return logits_BC

    def all_logits(self, features_BLF: Tensor) -> list[Tensor]:
        """Logits (B, C) of every head that is evaluated."""
        return [self(features_BLF)]

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if stage == "predict":
            return  # labels are not needed
        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, "class_names", None)
        if not names:
            raise ValueError(
                f"{type(data).__name__} has no classes; a classifier needs labelled data, such as "
                "data_modules.ESC50DataModule."
            )
        if len(names) != self.num_classes:
            raise ValueError(
                f"{type(data).__name__} has {len(names)} classes and the model {self.num_classes}. "
                f"Pass --model.num_classes {len(names)}."
            )
        self.class_names = list(names)

    def _start_evaluation(self) -> None:
        single_label = getattr(self.trainer.datamodule, "single_label", False)  # type: ignore[attr-defined]
        self._metrics = [ClassificationMetrics(self.num_classes, single_label) for _ in range(self.num_heads)]

    @property
    def num_heads(self) -> int:
        """Heads that :meth:`all_logits` gives."""
        return 1

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation_step(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation_step(batch)

    def evaluation_step(self, batch: dict[str, Any]) -> None:
        features_BLF = self.frontend(batch["waveform"], batch.get("num_samples"))
        for metrics, logits_BC in zip(self._metrics, self.all_logits(features_BLF), strict=True):
            metrics.update(
                self.loss.log_probabilities(logits_BC), batch["labels"], batch["index"], batch.get("polyphony")
            )

    def on_validation_epoch_end(self) -> None:
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test")

    def _finish_evaluation(self, split: str) -> None:
        # Every process gathers the scores of all and computes the same numbers.
        self.results = [metrics.compute() for metrics in self._metrics]
        self._metrics = []
        scalars = [results.scalars() for results in self.results]
        for name in scalars[0]:
            mean = sum(values[name] for values in scalars) / len(scalars)
            # The mean over processes is of equal numbers.
            self.log(f"{split}/{name}", mean, prog_bar=name == "map", sync_dist=True)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Probabilities (B, C) and pooled tokens ``embedding`` (B, W) of whole clips, with the clips' ``index``."""
        embedding_BW = self.embed(self.frontend(batch["waveform"], batch.get("num_samples")))
        probabilities_BC = self.loss.log_probabilities(self.head(self.fc_norm(embedding_BW))).exp()
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
        return {
            "epoch": self.trainer.current_epoch,
            "step": self.trainer.global_step,
            "seed": torch.initial_seed(),
            "learning_rate": self.learning_rate,
        }

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
