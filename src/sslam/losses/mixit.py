"""Mixture invariant training: estimates are judged by the mixtures that they add up to (Wisdom et al., NeurIPS 2020).

Shape letters: B mixtures of mixtures, M reference mixtures in each, N estimates, A assignments, T samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslam.devices import widest_float
from sslam.losses.separation import log_mse

MAX_ASSIGNMENTS = 2**16
# Losses this close in dB are ties, so that rounding does not decide between them.
TIE = 1e-6


class Assignments(NamedTuple):
    """Which assignments may be tried, each a mixture for every estimate (the enhancement task, MixIT sec. 4.2).

    Attributes:
        allowed: Those that are tried; None for all.
        denied: Those that are not.
    """

    allowed: Sequence[Sequence[int]] | None = None
    denied: Sequence[Sequence[int]] = ()

    def select(self, assignments_AN: Tensor, num_mixtures: int) -> Tensor:
        """Those of all assignments that may be tried, in their order.

        Raises:
            ValueError: If a list has an assignment that is none, or nothing is left.
        """
        num_estimates = assignments_AN.shape[1]
        for row in (*(self.allowed or ()), *self.denied):
            if len(row) != num_estimates or not all(0 <= mixture < num_mixtures for mixture in row):
                raise ValueError(
                    f"An assignment names a mixture, 0 to {num_mixtures - 1}, for each of {num_estimates} estimates, "
                    f"got {list(row)}. Correct allowed_assignments or denied_assignments."
                )
        if self.allowed is None and not self.denied:
            return assignments_AN
        allowed = None if self.allowed is None else {tuple(row) for row in self.allowed}
        denied = {tuple(row) for row in self.denied}
        rows = [tuple(row) for row in assignments_AN.tolist()]
        kept = [number for number, row in enumerate(rows) if (allowed is None or row in allowed) and row not in denied]
        if not kept:
            raise ValueError("No assignment is left. Deny fewer of them, or allow more.")
        return assignments_AN[kept]


ALL_ASSIGNMENTS = Assignments()


def mixit_loss(
    mixtures_BMT: Tensor,
    estimates_BNT: Tensor,
    max_snr: float = 30.0,
    assignments: Assignments = ALL_ASSIGNMENTS,
) -> Tensor:
    """Smallest mean over the mixtures of :func:`log_mse` that any assignment of the estimates to them reaches.

    The assignments are compared by energies and inner products alone, so memory does not grow with their number; the
    loss is then computed from the signals, with its gradient.

    Args:
        mixtures_BMT: Reference mixtures, shape (B, M, T).
        estimates_BNT: Estimates of the sources in their sum, shape (B, N, T).
        max_snr: SNR in dB, see :func:`log_mse`. Published: 30 dB.
        assignments: Which of them are tried.

    Returns:
        Shape (B,), in dB, float32 at least.

    Raises:
        ValueError: As :func:`best_assignment`.
    """
    assignment_BN = best_assignment(mixtures_BMT, estimates_BNT, max_snr, assignments)
    return log_mse(mixtures_BMT, remix(estimates_BNT, assignment_BN, mixtures_BMT.shape[1]), max_snr).mean(dim=1)


@torch.no_grad()
def best_assignment(
    mixtures_BMT: Tensor,
    estimates_BNT: Tensor,
    max_snr: float = 30.0,
    assignments: Assignments = ALL_ASSIGNMENTS,
) -> Tensor:
    """The assignment of every estimate to one mixture that has the smallest loss, the first one of ties.

    All M^N assignments are tried, or those of them that may be, also those that leave a mixture without estimates; the
    first one gives all estimates to the first mixture, and the last estimate changes its mixture first.

    Returns:
        The mixture of every estimate, shape (B, N), int64.

    Raises:
        ValueError: If the shapes do not fit, there are more than 65 536 assignments, or none may be tried.
    """
    num_mixtures, num_estimates = mixtures_BMT.shape[1], estimates_BNT.shape[1]
    if mixtures_BMT.shape[::2] != estimates_BNT.shape[::2]:
        raise ValueError(
            "Mixtures (B, M, T) and estimates (B, N, T) must have the same B and T, got "
            f"{tuple(mixtures_BMT.shape)} and {tuple(estimates_BNT.shape)}."
        )
    if num_mixtures**num_estimates > MAX_ASSIGNMENTS:
        raise ValueError(
            f"{num_estimates} estimates of {num_mixtures} mixtures have {num_mixtures**num_estimates} assignments, "
            f"more than {MAX_ASSIGNMENTS}. Mix fewer clips or separate into fewer sources."
        )
    choices = torch.arange(num_mixtures, device=estimates_BNT.device)
    assignments_AN = torch.cartesian_prod(*[choices] * num_estimates).reshape(-1, num_estimates)
    assignments_AN = assignments.select(assignments_AN, num_mixtures)
    with torch.autocast(estimates_BNT.device.type, enabled=False):
        wide = widest_float(estimates_BNT.device)  # the energy of a small error is the difference of large ones
        mixtures, estimates = mixtures_BMT.to(wide), estimates_BNT.to(wide)
        chosen_AMN = F.one_hot(assignments_AN, num_mixtures).mT.to(wide)
        # |mixture - sum of chosen estimates|^2, multiplied out
        energy_BM = mixtures.square().sum(dim=-1)
        overlap_BAM = torch.einsum("bmn,amn->bam", mixtures @ estimates.mT, chosen_AMN)
        chosen_energy_BAM = torch.einsum("amn,bno,amo->bam", chosen_AMN, estimates @ estimates.mT, chosen_AMN)
        error_BAM = (energy_BM[:, None] - 2 * overlap_BAM + chosen_energy_BAM).clamp(min=0.0)
        loss_BA = torch.log10(10 ** (-max_snr / 10) * energy_BM[:, None] + error_BAM + 1e-8).mean(dim=-1) * 10
    first_B = (loss_BA <= loss_BA.amin(dim=1, keepdim=True) + TIE).int().argmax(dim=1)
    return assignments_AN[first_B]


def remix(estimates_BNT: Tensor, assignment_BN: Tensor, num_mixtures: int) -> Tensor:
    """Sums of the estimates that are assigned to each mixture, (B, M, T); 0 for a mixture without estimates."""
    with torch.autocast(estimates_BNT.device.type, enabled=False):
        estimates_BNT = estimates_BNT.to(torch.promote_types(estimates_BNT.dtype, torch.float32))
        return F.one_hot(assignment_BN, num_mixtures).mT.to(estimates_BNT) @ estimates_BNT
