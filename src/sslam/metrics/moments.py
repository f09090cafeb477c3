"""First and second moments of a set of vectors, which can be added up over batches and ranks.

Shape letters: N vectors, D width.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from sslam.devices import widest_float


@dataclass(frozen=True)
class Moments:
    """Number, sum (D,) and sum of squares (D,) of vectors, in float64 (where the device has it) to add up many."""

    number: Tensor
    total_D: Tensor
    total_of_squares_D: Tensor

    @classmethod
    def of(cls, vectors: Tensor, weights: Tensor) -> "Moments":
        """Moments of vectors (..., D), each counted ``weights`` (...) times."""
        # Autocast would turn the products into bfloat16.
        with torch.autocast(vectors.device.type, enabled=False):
            vectors_ND = vectors.detach().flatten(end_dim=-2).float()
            weights_N = weights.flatten().float()
            wide = widest_float(vectors.device)
            return cls(
                weights_N.sum().to(wide),
                (weights_N @ vectors_ND).to(wide),
                (weights_N @ vectors_ND.square()).to(wide),
            )

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.number + other.number,
            self.total_D + other.total_D,
            self.total_of_squares_D + other.total_of_squares_D,
        )

    def standard_deviation(self) -> Tensor:
        """Mean over D of the standard deviation over the vectors: 0 when all vectors are equal (data2vec's measure)."""
        variance_D = (self.total_of_squares_D - self.total_D.square() / self.number) / (self.number - 1)
        return (variance_D.clamp(min=0.0) + 1e-6).sqrt().mean().float()


def total(parts: Sequence[Moments]) -> Moments | None:
    """All moments added up; None of none."""
    return reduce(operator.add, parts) if parts else None
