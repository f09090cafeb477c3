"""How well each clip is separated, from which intervals of MSi and 1S are computed. Shape letters: B and N clips."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslam.metrics.clips import ClipMetric
from sslam.metrics.separation import pair


class SeparatedClips(NamedTuple):
    """Sums over the pairs of source and estimate of each clip, in the order of the clips' index; in dB.

    Attributes:
        improvement_N: Sum of the improvements of SI-SNR, of clips with two active sources and more.
        num_pairs_N: Number of these pairs. MSi is the one's sum over the clips by the other's.
        si_snr_N: SI-SNR of the pair of a clip with one active source.
        num_singles_N: 1 for a clip that has such a pair. 1S is the one's sum over the clips by the other's.
        num_sources_N: Active sources.
        index_N: What tells a clip from all others.
    """

    improvement_N: NDArray[np.float32]
    num_pairs_N: NDArray[np.float32]
    si_snr_N: NDArray[np.float32]
    num_singles_N: NDArray[np.float32]
    num_sources_N: NDArray[np.int64]
    index_N: NDArray[np.int64]


class SeparationByClip(ClipMetric):
    """Collects what :class:`~sslam.metrics.separation.SeparationMetrics` adds up, clip by clip.

    Args:
        **kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    sums: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("sums", 5, 0, **kwargs)

    def update(self, estimates_BNT: Tensor, sources_BST: Tensor, mixture_BT: Tensor, index_B: Tensor) -> None:  # type: ignore[override]
        """Add clips.

        Args:
            estimates_BNT: Shape (B, N, T).
            sources_BST: Shape (B, S, T); silent ones may stand for none.
            mixture_BT: Clips that were separated, shape (B, T).
            index_B: What tells a clip from all others.

        Raises:
            ValueError: If an estimate is not finite.
        """
        pairs = pair(estimates_BNT, sources_BST, mixture_BT)
        several_BS, single_BS = pairs.of_several(), pairs.of_singles()
        columns = [
            (pairs.improvement_BS * several_BS).sum(dim=1),
            several_BS.sum(dim=1),
            (pairs.si_snr_BS * single_BS).sum(dim=1),
            single_BS.sum(dim=1),
            pairs.num_sources_B,
        ]
        sums_B5 = torch.stack([column.float() for column in columns], dim=1)
        super().update(sums_B5, torch.zeros(len(index_B), 0), index_B)

    def compute(self) -> SeparatedClips:
        """Of all clips so far, of all processes.

        Raises:
            ValueError: If there is no clip, or one was evaluated twice.
        """
        sums_N5, _, index_N = (tensor.numpy() for tensor in self.collected().values())
        improvement_N, num_pairs_N, si_snr_N, num_singles_N, num_sources_N = sums_N5.T
        return SeparatedClips(
            improvement_N, num_pairs_N, si_snr_N, num_singles_N, num_sources_N.astype(np.int64), index_N
        )
