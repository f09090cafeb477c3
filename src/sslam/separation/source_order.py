"""Which estimate of one window or channel is the same source as which estimate of another.

Shape letters: N sources, C channels, T samples.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sslam.audio import Waveform

STFT_LENGTH = 1024
STFT_HOP = 512


def best_order(similarity_NN: NDArray[np.float32]) -> NDArray[np.intp]:
    """For each row a column of its own, so that the sum of their similarities is largest: shape (N,)."""
    from scipy.optimize import linear_sum_assignment  # takes a second

    order: NDArray[np.intp] = linear_sum_assignment(np.nan_to_num(similarity_NN), maximize=True)[1]
    return order


def order_like(reference: Waveform, estimates: Waveform) -> NDArray[np.intp]:
    """The order of estimates (N, ...) that has the smallest squared difference to the reference (N, ...).

    As the energies are the same in any order, that is the one with the largest sum of inner products.
    """
    return best_order(reference.reshape(len(reference), -1) @ estimates.reshape(len(estimates), -1).T)


def order_channels(estimates_CNT: Waveform) -> None:
    """Put the sources of every channel in the order of the channels before it, in place.

    Compared are magnitudes of spectrograms, which neither a delay nor the sign between two microphones changes, by
    their cosines, as a source may be loud on one side and quiet on the other.
    """
    if len(estimates_CNT) == 1:
        return
    known = _unit_spectrograms(estimates_CNT[0])
    for estimates_NT in estimates_CNT[1:]:
        spectrograms = _unit_spectrograms(estimates_NT)
        order = best_order((known @ spectrograms.T).numpy())
        estimates_NT[:] = estimates_NT[order]
        known += spectrograms[torch.from_numpy(order)]


def _unit_spectrograms(estimates_NT: Waveform) -> Tensor:
    """Magnitudes as one vector of length 1 for each source; zeros for a silent one."""
    complex_NFL = torch.stft(
        torch.from_numpy(estimates_NT),
        STFT_LENGTH,
        STFT_HOP,
        window=torch.hann_window(STFT_LENGTH),
        pad_mode="constant",
        return_complex=True,
    )
    return F.normalize(complex_NFL.abs().flatten(1), dim=1)
