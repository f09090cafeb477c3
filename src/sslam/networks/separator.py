"""What a separation network is, and how its estimates are made to add up to the mixture.

Shape letters: B clips, N sources, T samples.
"""

from typing import Literal

from torch import Tensor

from sslam.rebuildable import Rebuildable

Consistency = Literal["pred_source", "magsq", "uniform", "none"]


class Separator(Rebuildable):
    """Base of every separation network that a method can be given.

    Attributes:
        num_sources: Number N of sources that it puts out, silent ones included.
        sample_rate: Sample rate of its input and output in Hz.
        min_samples: Length of the shortest clip it takes.
    """

    num_sources: int
    sample_rate: int
    min_samples: int

    def forward(self, mixture_BT: Tensor) -> Tensor:
        """Mixtures (B, T) to estimates of their sources (B, N, T)."""
        raise NotImplementedError


def mixture_consistency(estimates_BNT: Tensor, mixture_BT: Tensor, shares_BN: Tensor) -> Tensor:
    """Hand out what the estimates lack to the mixture, in shares that add up to 1 (Wisdom et al. 2019): (B, N, T)."""
    missing_BT = mixture_BT - estimates_BNT.sum(dim=1)
    return estimates_BNT + shares_BN.unsqueeze(-1) * missing_BT.unsqueeze(1)


def power_shares(estimates_BNT: Tensor) -> Tensor:
    """Shares (B, N) in proportion to the estimates' power, equal ones where all are silent; with gradient."""
    power_BN = estimates_BNT.square().mean(dim=-1) + 1e-8
    return power_BN / power_BN.sum(dim=1, keepdim=True)
