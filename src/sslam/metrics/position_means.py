"""What the place of a patch alone tells of its target: a predictor without content that a student must beat.

Shape letters: B clips, P patches, D width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslam.checks import within
from sslam.losses import scaled_squared_error


class PatchLosses(NamedTuple):
    """Patch losses of a student and of two predictors that hear nothing, at the same masked patches; float32 scalars.

    Attributes:
        student: The student's.
        of_position: Each patch is predicted by the mean target of its place over earlier clips.
        of_constant: Every patch is predicted by the mean of these means.
    """

    student: Tensor
    of_position: Tensor
    of_constant: Tensor

    def above_position(self) -> Tensor:
        """The student's loss in units of that of the position: below 1 where it has found content."""
        return self.student / self.of_position

    def position_share(self) -> Tensor:
        """Share of the targets' variance that position explains: at most 1, and below 0 where it misleads."""
        return 1 - self.of_position / self.of_constant


class PositionMeans:
    """Exponential moving average over batches of the mean target of each place, for several kinds of targets.

    The first batches weigh as in Adam's bias correction, so that it is a mean from the first batch on. A kind begins
    anew when its number of patches changes. Every process has its own; a checkpoint holds those of the first.

    Args:
        decay: Weight of the past, in [0, 1). At .9 the mean has the noise of one over 19 batches and follows a teacher
            that moves.

    Raises:
        ValueError: If ``decay`` is out of its range.
    """

    def __init__(self, decay: float = 0.9) -> None:
        within(0, 1, "[)", decay=decay)
        self.decay = decay
        self.means: dict[str, tuple[Tensor, int]] = {}  # of each kind, (P, D), and how many batches it has seen

    def mean_of(self, kind: str, target_BPD: Tensor) -> Tensor | None:
        """Mean target (P, D) of each place so far, on the target's device; None where there is none of this size."""
        mean_PD, _ = self.means.get(kind, (None, 0))
        return None if mean_PD is None or mean_PD.shape != target_BPD.shape[1:] else mean_PD.to(target_BPD.device)

    @torch.no_grad()
    def compare(self, student: Tensor, targets: Mapping[str, tuple[Tensor, Tensor | None]]) -> PatchLosses | None:
        """The student's loss beside those of the means before this batch, which is then added to them.

        Args:
            student: Its patch loss: the sum, over the kinds, of the weighted errors at all patches.
            targets: By kind: targets (B, P, D), and the weights (B, P) of their errors in the patch loss, None where
                they have no part in it.

        Returns:
            The losses, or None where a kind that has weights has no mean yet, or none has weights.
        """
        losses = []
        is_known = True
        for kind, (target_BPD, weight_BP) in targets.items():
            mean_PD = self.mean_of(kind, target_BPD)
            if weight_BP is not None and mean_PD is not None:
                predictions = torch.stack([mean_PD, mean_PD.mean(dim=0).expand_as(mean_PD)])
                errors_2BP = scaled_squared_error(predictions[:, None], target_BPD)
                losses.append((weight_BP * errors_2BP).sum(dim=(1, 2)))
            is_known &= weight_BP is None or mean_PD is not None
            self._add(kind, mean_PD, target_BPD.float().mean(dim=0))
        return PatchLosses(student.detach(), *torch.stack(losses).sum(dim=0)) if losses and is_known else None

    def _add(self, kind: str, mean_PD: Tensor | None, batch_PD: Tensor) -> None:
        # What is not finite, of a step that is skipped, leaves the mean as it is.
        batch_PD = torch.where(batch_PD.isfinite(), batch_PD, 0.0 if mean_PD is None else mean_PD)
        num_batches = 1 if mean_PD is None else self.means[kind][1] + 1
        share = (1 - self.decay) / (1 - self.decay**num_batches)
        self.means[kind] = (batch_PD if mean_PD is None else mean_PD.lerp(batch_PD, share), num_batches)

    def state_dict(self) -> dict[str, Any]:
        """The means and numbers of batches by kind, for a checkpoint."""
        return {kind: {"mean": mean, "num_batches": number} for kind, (mean, number) in self.means.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; an empty one begins anew."""
        self.means = {kind: (saved["mean"], saved["num_batches"]) for kind, saved in state.items()}
