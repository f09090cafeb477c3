"""What all evaluations share: an encoder and where it comes from, its front end, pooling, and labelled data.

Shape letters: B clips, L frames, F mel bins, W pooled width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sslam.checkpoints.provenance import read_encoder
from sslam.checks import within
from sslam.frontends import Frontend
from sslam.methods.method import Method, require_same_mel_bins
from sslam.metrics import ClassificationResults, RetrievalResults
from sslam.networks import Encoder, Readout
from sslam.networks.pooling import Pooling
from sslam.rebuildable import Rebuildable


class EvaluatedEncoder(Method):
    """Base of the methods that judge a pre-trained encoder by what they find in its pooled tokens.

    Args:
        frontend: Waveform (B, T) to features, in float32 on the batch's device; with the length and the statistics of
            the data at hand, which need not be those of pre-training. None takes the one that the checkpoint states,
            with its statistics and as many frames as the data's clips have.
        initial_checkpoint: File that the encoder comes from: a run of pre-training, contrastive or not, or of
            fine-tuning, a file that ``sslam convert`` wrote, or a published EAT or SSLAM file.
        weights: Encoder of that file: the student (as published) or the teacher; ``random`` takes its architecture
            only, for the baseline that every pre-training must beat.
        encoder: Instead of ``initial_checkpoint``, an encoder with random weights, or one that has none:
            :class:`~sslam.networks.MeanFeatures`.
        pooling: ``cls`` (as published), ``mean`` of the patches, ``both``, one after the other, ``statistics``, mean
            and standard deviation of the patches, or ``row_statistics``, these over time for each frequency row.
        layers: Numbers of the encoder's layers, from 1, of which the pooled tokens are taken, one after the other; None
            for its output (as published).
        label: Name of the weights in tables, such as ``stage 1``; by default ``weights`` and the file's name.
        drop_path: Stochastic depth of the encoder's last block in training, rising linearly from the first one; an
            ``encoder`` that is given keeps its own.
        whole_clips: Also give a front end that is given as many frames as the data's clips have.
        user_classes: Import paths of encoders and front ends of your own that ``initial_checkpoint`` may name, such as
            ``my_encoders.TinyEncoder``.

    Raises:
        ValueError: If the encoder is given twice or not at all, cannot be read, or does not fit the front end or the
            readout.
    """

    results: RetrievalResults | list[ClassificationResults] | None
    """What the last evaluation found on all clips of all processes, of which a callback makes a record."""

    def __init__(
        self,
        frontend: Frontend | None = None,
        initial_checkpoint: str | None = None,
        weights: Literal["student", "teacher", "random"] = "student",
        encoder: Encoder | None = None,
        pooling: Pooling = "cls",
        layers: Sequence[int] | None = None,
        label: str | None = None,
        drop_path: float = 0.0,
        whole_clips: bool = False,
        user_classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if (encoder is None) == (initial_checkpoint is None):
            raise ValueError(
                "An evaluation needs an encoder, and one only: give initial_checkpoint, a file (with weights random "
                "for its architecture alone), or encoder."
            )
        within(0, 1, "[)", drop_path=drop_path)
        self.whole_clips = whole_clips or frontend is None
        self.provenance: dict[str, Any]
        """Where the encoder comes from; a run that goes on keeps what it began with."""
        if initial_checkpoint is not None:
            trained = read_encoder(initial_checkpoint, weights, drop_path, label, user_classes)
            encoder, frontend, self.provenance = trained.encoder, trained.frontend(frontend), trained.provenance
        else:
            assert encoder is not None
            has_weights = any(True for _ in encoder.parameters())
            label = label or ("random weights" if has_weights else type(encoder).__name__)
            weights_of_it = "random" if has_weights else "none"
            self.provenance = {"label": label, "weights": weights_of_it, "path": None, "sha256": None}
        if frontend is None:
            raise ValueError("An encoder that is given needs a frontend too, such as sslam.frontends.LogMel.")
        require_same_mel_bins(frontend, encoder)
        self.frontend = frontend
        self.encoder = encoder
        self.drop_path = drop_path
        self.readout = Readout(pooling, layers)
        self.width = self.readout.width(encoder)
        self.class_names: list[str] = []

    @property
    def name(self) -> str:
        """Name of the method in tables, written like a class."""
        return type(self).__name__

    @classmethod
    def arguments_for_resuming(cls, arguments: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
        if arguments.get("encoder") is not None:
            return {"initial_checkpoint": None}
        # The file of the run's beginning may be gone. The run's own has the same architecture and no teacher; its
        # weights are loaded later.
        return {"initial_checkpoint": checkpoint, "weights": "random"}

    def freeze_encoder(self) -> None:
        """The encoder does not learn; stochastic depth, where some was asked for, stays on in training."""
        self.encoder.requires_grad_(False).train(self.drop_path > 0)

    def embed(self, features_BLF: Tensor) -> Tensor:
        """Pooled tokens (B, W), float32 also under autocast, of normalised features (B, L, F)."""
        return self.readout(self.encoder, features_BLF).float()

    def embed_clips(self, batch: dict[str, Any]) -> Tensor:
        """Pooled tokens (B, W) of a batch's whole clips."""
        return self.embed(self.frontend(batch["waveform"], batch.get("num_samples")))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.whole_clips:
            if not hasattr(data, "clip_seconds"):
                raise ValueError(
                    f"{type(data).__name__} does not say how long its clips are (clip_seconds), which the front end "
                    "needs. Give a frontend with num_frames, and whole_clips false."
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

    def stated_networks(self) -> dict[str, Rebuildable]:
        return {"encoder": self.encoder, "frontend": self.frontend}

    def training_facts(self) -> dict[str, Any]:
        """``readout``, and ``epoch``, ``step`` and ``seed`` of the training in this run that results come from."""
        return {
            "readout": str(self.readout),
            "epoch": self.trainer.current_epoch,
            "step": self.trainer.global_step,
            "seed": torch.initial_seed(),
        }
