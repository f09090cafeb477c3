"""Separation with known sources: permutation-invariant training (MixIT sec. 3.1 and 3.3; the published FUSS baseline).

Shape letters: B clips, N sources and estimates, T samples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sslam.devices import widest_float
from sslam.losses.separation import log_mse, permutation_invariant, precise

SILENT_RMS = 1e-8
"""Root mean square up to which a source is absent."""


def supervised_separation_loss(
    sources_BST: Tensor,
    estimates_BNT: Tensor,
    mixture_BT: Tensor,
    max_snr: float = 30.0,
    absent_max_snr: float = 20.0,
    absent_weight: float = 1.0,
) -> Tensor:
    """Thresholded error of the estimates, each paired with another source.

    Estimates and sources are paired so that the sum of ``10 log10 |source - estimate|^2`` is smallest. A source that
    sounds counts by :func:`log_mse`; an absent one has no level of its own, and its estimate counts by the mixture's,
    ``10 log10(10^(-absent_max_snr / 10) |mixture|^2 + |estimate|^2 + 1e-8)``.

    Args:
        sources_BST: Shape (B, S, T), S at most N; silent rows are absent sources, as are the N - S that are missing.
        estimates_BNT: Shape (B, N, T).
        mixture_BT: Clips that were separated, shape (B, T).
        max_snr: SNR in dB at which a sounding source has little more to gain. Published: 30.
        absent_max_snr: The same of absent ones, below the mixture. Published: 20.
        absent_weight: Weight of absent sources. Published: 1.

    Returns:
        Shape (B,), mean over the N pairs, in dB, float32 at least.

    Raises:
        ValueError: If there are more sources than estimates.
    """
    sources_BNT = match_number(sources_BST, estimates_BNT.shape[1])
    errors_BNN = pairwise_error_energy(sources_BNT, estimates_BNT)
    permutation_BN = permutation_invariant(10 * torch.log10(errors_BNN + 1e-8)).permutation_BN
    paired_BNT = estimates_BNT.gather(1, permutation_BN.unsqueeze(2).expand_as(estimates_BNT))
    is_absent_BN = sources_BNT.square().mean(dim=-1).sqrt() <= SILENT_RMS
    present_BN = log_mse(sources_BNT, paired_BNT, max_snr)
    # A silent estimate of this level has an error of the mixture's energy under the threshold.
    mixture_energy_B1 = precise(mixture_BT).square().sum(dim=-1, keepdim=True)
    energy_BN = precise(paired_BNT).square().sum(dim=-1)
    absent_BN = 10 * torch.log10(10 ** (-absent_max_snr / 10) * mixture_energy_B1 + energy_BN + 1e-8)
    return torch.where(is_absent_BN, absent_weight * absent_BN, present_BN).mean(dim=1)


def match_number(sources_BST: Tensor, num_estimates: int) -> Tensor:
    """Sources (B, N, T) with silent rows for those that are missing, without silent rows that are too many.

    Raises:
        ValueError: If more sources sound than there are estimates.
    """
    num_sources = sources_BST.shape[1]
    if num_sources <= num_estimates:
        return F.pad(sources_BST, (0, 0, 0, num_estimates - num_sources))
    sounds_BS = sources_BST.square().mean(dim=-1).sqrt() > SILENT_RMS
    if (most := int(sounds_BS.sum(dim=1).max())) > num_estimates:
        raise ValueError(
            f"A clip has {most} sources and the separator {num_estimates} outputs; each source needs one. Give the "
            "separator a greater num_sources."
        )
    order_BS = sounds_BS.int().argsort(dim=1, descending=True, stable=True)[:, :num_estimates]
    return sources_BST.gather(1, order_BS.unsqueeze(2).expand(-1, -1, sources_BST.shape[2]))


@torch.no_grad()
def pairwise_error_energy(sources_BNT: Tensor, estimates_BMT: Tensor) -> Tensor:
    """``|source - estimate|^2`` of every pair (B, N, M), multiplied out, so that no signal is made for each pair."""
    with torch.autocast(sources_BNT.device.type, enabled=False):
        wide = widest_float(sources_BNT.device)
        sources, estimates = sources_BNT.to(wide), estimates_BMT.to(wide)
        energies = sources.square().sum(dim=-1).unsqueeze(2) + estimates.square().sum(dim=-1).unsqueeze(1)
        return (energies - 2 * sources @ estimates.mT).clamp(min=0.0)
