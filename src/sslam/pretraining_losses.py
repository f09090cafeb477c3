"""What a step of pre-training minimises, term by term. Shape letters: B clips, P patches, D width."""

from typing import NamedTuple

from torch import Tensor

from sslam.metrics import Moments
from sslam.stages import Objectives

LOSS_NAMES = ("patch_loss", "cls_loss", "source_retention_loss", "source_retention_cls_loss", "clip_contrast_loss")


class PretrainingLosses(NamedTuple):
    """The terms, whose sum is minimised, and the moments of targets and predictions at masked patches.

    ``targets`` are all by their kind (B, P, D), with the weights of their errors in the patch loss (B, P), if any.
    There are no moments where nothing is predicted, as where clips are only told apart.
    """

    patch: Tensor
    cls: Tensor
    source_retention: Tensor
    source_retention_cls: Tensor
    clip_contrast: Tensor
    target_moments: Moments | None
    prediction_moments: Moments | None
    targets: dict[str, tuple[Tensor, Tensor | None]]

    @property
    def total(self) -> Tensor:
        return self.patch + self.cls + self.source_retention + self.source_retention_cls + self.clip_contrast

    def by_name(self, objectives: Objectives) -> dict[str, Tensor]:
        """The terms that the objectives have, by the names that they are logged under."""
        has_latents = objectives.uses_clips or objectives.uses_mixtures
        terms = {"patch_loss": self.patch, "cls_loss": self.cls} if has_latents else {}
        terms |= {"source_retention_loss": self.source_retention} if objectives.source_retention else {}
        is_global = objectives.source_retention_global > 0
        terms |= {"source_retention_cls_loss": self.source_retention_cls} if is_global else {}
        return terms | ({"clip_contrast_loss": self.clip_contrast} if objectives.clip_contrast else {})
