"""What a step of pre-training minimises, term by term. Shape letters: B clips, P patches, D width."""

from typing import NamedTuple

from torch import Tensor

from sslam.metrics import Moments
from sslam.stages import Objectives


class PretrainingLosses(NamedTuple):
    """The terms, whose sum is minimised, and the moments of targets and predictions at masked patches.

    ``targets`` are all by their kind (B, P, D), with the weights of their errors in the patch loss (B, P), if any.
    """

    patch: Tensor
    cls: Tensor
    source_retention: Tensor
    source_retention_cls: Tensor
    target_moments: Moments
    prediction_moments: Moments
    targets: dict[str, tuple[Tensor, Tensor | None]]

    @property
    def total(self) -> Tensor:
        return self.patch + self.cls + self.source_retention + self.source_retention_cls

    def by_name(self, objectives: Objectives) -> dict[str, Tensor]:
        """The terms that the objectives have, by the names that they are logged under."""
        terms = {"patch_loss": self.patch, "cls_loss": self.cls}
        terms |= {"source_retention_loss": self.source_retention} if objectives.source_retention else {}
        is_global = objectives.source_retention_global > 0
        return terms | ({"source_retention_cls_loss": self.source_retention_cls} if is_global else {})
