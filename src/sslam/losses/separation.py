"""How well an estimate fits a reference signal, in dB. All constants are those of the published code.

Shape letters: B clips, N references, M estimates, T samples.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslam.devices import widest_float


class Matching(NamedTuple):
    """The best pairing of references and estimates: its losses (B, N) and, per reference, its estimate (B, N)."""

    loss_BN: Tensor
    permutation_BN: Tensor


def log_mse(reference: Tensor, estimate: Tensor, max_snr: float = 30.0) -> Tensor:
    """Thresholded negative SNR, ``10 log10(10^(-max_snr / 10) * sum(ref^2) + sum(err^2) + 1e-8)`` (MixIT sec. 3.1).

    Args:
        reference: Shape (..., T).
        estimate: Shape (..., T), broadcast against the reference.
        max_snr: SNR in dB. An estimate this close to its reference has little more to gain.

    Returns:
        Shape (...), in dB, float32 at least. -80 where both signals are silent, and then without gradient.
    """
    error_energy = _energy(precise(reference) - precise(estimate))
    return 10 * torch.log10(10 ** (-max_snr / 10) * _energy(precise(reference)) + error_energy + 1e-8)


def si_snr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Scale-invariant SNR in dB, between -80 and 80: signals (..., T), broadcast, to (...).

    From the squared cosine c between the signals, ``10 log10((c + 1e-8) / (1 - c + 1e-8))``. Means are not removed, and
    the sign does not count. -80 where one of the signals is silent.
    """
    reference_wide, estimate_wide = _wide(reference), _wide(estimate)
    product = (reference_wide * estimate_wide).sum(dim=-1)
    ratio = _scale_invariant_ratio(product, _energy(reference_wide), _energy(estimate_wide))
    return ratio.to(precise(reference).dtype)


def pairwise_si_snr(references_BNT: Tensor, estimates_BMT: Tensor) -> Tensor:
    """:func:`si_snr` of every reference with every estimate, (B, N, M)."""
    references_wide, estimates_wide = _wide(references_BNT), _wide(estimates_BMT)
    product_BNM = references_wide @ estimates_wide.mT
    reference_energy_BN1 = _energy(references_wide).unsqueeze(2)
    estimate_energy_B1M = _energy(estimates_wide).unsqueeze(1)
    ratio = _scale_invariant_ratio(product_BNM, reference_energy_BN1, estimate_energy_B1M)
    return ratio.to(precise(references_BNT).dtype)


def permutation_invariant(loss_BNM: Tensor) -> Matching:
    """Give every reference another estimate, so that the mean loss is as small as can be.

    Args:
        loss_BNM: Any loss between reference n and estimate m, with N no more than M: ``pairwise_si_snr(...).neg()`` or
            ``log_mse(references[:, :, None], estimates[:, None])``.

    Returns:
        Losses of the pairs, with gradient, and the estimate of every reference.

    Raises:
        ValueError: If there are fewer estimates than references.
    """
    num_references, num_estimates = loss_BNM.shape[1:]
    if num_references > num_estimates:
        raise ValueError(
            f"{num_estimates} estimates are too few for {num_references} references; each needs one of its own. "
            "Add silent estimates."
        )
    # A network that has diverged gives NaN here, which the solver would refuse; the pairing does not matter then.
    costs = torch.nan_to_num(loss_BNM.detach().cpu().double(), nan=1e9).numpy()
    # Of equal pairings, as with silent references, the one in order: its sum of n * m is the largest.
    costs = costs - 1e-6 * np.outer(np.arange(num_references), np.arange(num_estimates))
    from scipy.optimize import linear_sum_assignment  # takes a second

    columns = torch.stack([torch.from_numpy(linear_sum_assignment(cost)[1]) for cost in costs])
    permutation_BN = columns.to(loss_BNM.device)
    return Matching(loss_BNM.gather(2, permutation_BN.unsqueeze(2)).squeeze(2), permutation_BN)


def precise(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _wide(tensor: Tensor) -> Tensor:
    # A cosine of nearly 1, taken from 1, leaves no digits in float32.
    return tensor.to(widest_float(tensor.device))


def _energy(signal: Tensor) -> Tensor:
    return signal.square().sum(dim=-1)


def _scale_invariant_ratio(product: Tensor, energy: Tensor, other_energy: Tensor) -> Tensor:
    cosine_squared = product.square() / (energy.clamp(min=1e-16) * other_energy.clamp(min=1e-16))
    return 10 * torch.log10((cosine_squared + 1e-8) / ((1 - cosine_squared).clamp(min=0.0) + 1e-8))
