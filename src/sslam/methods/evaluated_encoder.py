"""What all evaluations share: an encoder and where it comes from, its front end, pooling, and labelled data.

Shape letters: B clips, L frames, F mel bins, W pooled width, C classes.
"""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from sslam.checkpoints.loading import file_sha256, read_checkpoint
from sslam.frontends import Frontend
from sslam.networks import Encoder
from sslam.networks.pooling import Pooling, pool_tokens
from sslam.report.results import EvaluationRecord


class EvaluatedEncoder(pl.LightningModule):
    """Base of the methods that judge a pre-trained encoder by what they find in its pooled tokens.

    Args:
        frontend: Waveform (B, T) to features, in float32 on the batch's device; with the length and the statistics of
            the data at hand, which need not be those of pre-training. None takes the one that the checkpoint states,
            with its statistics and as many frames as the data's clips have.
        initial_checkpoint: Where the encoder comes from: a run of pre-training, contrastive or not, or of fine-tuning,
            a file that ``sslam convert`` wrote, or a published EAT or SSLAM file.
        weights: Which encoder of that file: the student (as published) or the teacher; ``random`` takes its
            architecture only, for the baseline that every pre-training must beat.
        encoder: Instead of ``initial_checkpoint``, an encoder with random weights, or one that has none:
            :class:`~sslam.networks.MeanFeatures`.
        pooling: ``cls`` (as published), ``mean`` of the patches, or ``both``, one after the other.
        label: Name of the weights in tables, such as ``stage 1``; by default ``weights`` and the file's name.
        drop_path: Stochastic depth of the encoder's last block in training, rising linearly from the first one; an
            ``encoder`` that is given keeps its own.
        whole_clips: Also give a front end that is given as many frames as the data's clips have.

    Raises:
        ValueError: If the encoder is given twice or not at all, cannot be read, or does not fit the front end.
    """

    def __init__(
        self,
        frontend: Frontend | None = None,
        initial_checkpoint: str | None = None,
        weights: Literal["student", "teacher", "random"] = "student",
        encoder: Encoder | None = None,
        pooling: Pooling = "cls",
        label: str | None = None,
        drop_path: float = 0.0,
        whole_clips: bool = False,
    ) -> None:
        super().__init__()
        if (encoder is None) == (initial_checkpoint is None):
            raise ValueError(
                "An evaluation needs an encoder, and one only: give --model.initial_checkpoint FILE (with "
                "--model.weights random for its architecture alone) or --model.encoder FILE.yaml."
            )
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and less than 1, got {drop_path}.")
        self.initial_checkpoint = initial_checkpoint
        self.weights = weights
        self.pooling = pooling
        self.whole_clips = whole_clips or frontend is None
        if initial_checkpoint is not None:
            checkpoint = read_checkpoint(initial_checkpoint)
            encoder = checkpoint.build_encoder("teacher" if weights == "teacher" else "student", drop_path)
            if weights == "random":
                encoder = checkpoint.new_encoder(drop_path)
            if frontend is None:
                frontend = checkpoint.build_frontend()
            elif "frontend" in checkpoint.hyper_parameters:
                require_same_features(frontend, checkpoint.build_frontend(), initial_checkpoint)
        if frontend is None:
            raise ValueError(
                "An encoder that is given needs a front end. Give --model.frontend, such as sslam.frontends.LogMel."
            )
        assert encoder is not None
        if frontend.num_mel_bins != encoder.num_mel_bins:
            raise ValueError(
                f"The front end's num_mel_bins must be the encoder's {encoder.num_mel_bins}, "
                f"got {frontend.num_mel_bins}. Give both the same."
            )
        self.frontend = frontend
        self.encoder = encoder
        has_weights = any(True for _ in encoder.parameters())
        self.provenance: dict[str, Any] = {
            "label": label or self.default_label(),
            "weights": weights if initial_checkpoint is not None else "random" if has_weights else "none",
            "path": initial_checkpoint,
            "sha256": None if initial_checkpoint is None else file_sha256(Path(initial_checkpoint)),
        }
        """Where the encoder comes from; a run that goes on keeps what it began with."""
        self.class_names: list[str] = []

    def default_label(self) -> str:
        """What tables call the weights if nothing else was given."""
        if self.initial_checkpoint is None or self.weights == "random":
            return "random weights" if list(self.encoder.parameters()) else type(self.encoder).__name__
        return f"{self.weights} of {Path(self.initial_checkpoint).stem}"

    @property
    def name(self) -> str:
        """Of the method, in tables."""
        return type(self).__name__

    def pooled(self, features_BLF: Tensor) -> Tensor:
        """Pooled tokens (B, W) of normalised features."""
        return pool_tokens(self.encoder(features_BLF), self.pooling)

    def setup(self, stage: str) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.whole_clips:
            if not hasattr(data, "clip_seconds"):
                raise ValueError(
                    f"{type(data).__name__} does not say how long its clips are (clip_seconds), which the front end "
                    "needs. Give --model.frontend with num_frames, and --model.whole_clips false."
                )
            self.frontend = self.frontend.of_length(round(data.clip_seconds * self.frontend.sample_rate))
        if stage == "predict":
            return  # labels are not needed
        names = getattr(data, "class_names", None)
        if not names:
            raise ValueError(
                f"{type(data).__name__} has no classes; an evaluation needs labelled data, such as "
                "data_modules.ESC50DataModule."
            )
        self.class_names = list(names)

    # ---- evaluation: the same for validation and test ---------------------------------------------------------------

    def start_evaluation(self) -> None:
        """Before the first batch."""
        raise NotImplementedError

    def evaluation_step(self, batch: dict[str, Any]) -> None:
        """Of one batch with ``waveform``, ``num_samples``, ``labels`` and ``index``."""
        raise NotImplementedError

    def finish_evaluation(self, split: str) -> None:
        """After the last batch: compute and log metrics, ``val/...`` or ``test/...``."""
        raise NotImplementedError

    def on_validation_epoch_start(self) -> None:
        self.start_evaluation()

    def on_test_epoch_start(self) -> None:
        self.start_evaluation()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation_step(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")

    def record(self, **origin: Any) -> EvaluationRecord:
        """Of the last evaluation; ``origin`` is what :class:`~sslam.report.results.EvaluationRecord` has besides."""
        raise NotImplementedError

    def score_arrays(self) -> dict[str, Any]:
        """What the record's numbers were computed from, by name; see :func:`~sslam.report.results.write_record`."""
        raise NotImplementedError

    def training_facts(self) -> dict[str, Any]:
        """``epoch``, ``step`` and ``seed`` of the training, in this run, that the results come from."""
        return {
            "epoch": self.trainer.current_epoch,
            "step": self.trainer.global_step,
            "seed": torch.initial_seed(),
        }


def require_same_features(given: Frontend, stated: Frontend, path: str) -> None:
    """Refuse a front end that makes other features than the encoder was trained on.

    Length and statistics may be those of the data at hand.

    Raises:
        ValueError: If the front ends differ in anything else.
    """
    ours, theirs = (
        {name: value for name, value in frontend.architecture().items() if name not in ("num_frames", "mean", "std")}
        for frontend in (given, stated)
    )
    if type(given) is not type(stated) or ours != theirs:
        raise ValueError(
            f"The encoder in {path} was trained on {type(stated).__name__} features ({_in_words(theirs)}), and the "
            f"front end makes {type(given).__name__} features ({_in_words(ours)}). Pass --model.frontend null, which "
            "takes the checkpoint's."
        )


def _in_words(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in arguments.items())
