"""Mean and standard deviation of log-mels, for a front end's `mean` and `std`.

Shape letters: T samples.
"""

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sslam.frontends.base import Frontend

PIECE_SECONDS = 10  # a longer recording is cut, as clips are


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and standard deviation of log-mels, every frame and bin alike; two of them add up to those of both.

    Sums of squared deviations are merged in float64 (Chan, Golub and LeVeque 1983), so one pass is exact.
    """

    num_values: int = 0
    mean: float = 0.0
    sum_of_squares: float = 0.0
    """Of the deviations from the mean."""

    @property
    def std(self) -> float:
        """Standard deviation with n in the denominator; 0 of no values."""
        return math.sqrt(self.sum_of_squares / max(1, self.num_values))

    def __add__(self, other: Self) -> Self:
        total = self.num_values + other.num_values
        delta = other.mean - self.mean
        share = other.num_values / max(1, total)
        squares = self.sum_of_squares + other.sum_of_squares + delta**2 * self.num_values * share
        return type(self)(total, self.mean + delta * share, squares)

    @classmethod
    def of(cls, log_mel: Tensor) -> Self:
        """The statistics of log-mels of any shape."""
        if not log_mel.numel():
            return cls()
        values = log_mel.double()
        mean = values.mean()
        return cls(values.numel(), float(mean), float((values - mean).square().sum()))


def recording_statistics(frontend: Frontend, waveform_T: Tensor) -> FeatureStatistics:
    """Statistics of the log-mels of a recording (T,), cut into pieces of 10 s; no frame hears padding.

    Args:
        frontend: Whose log-mels are wanted; its length, mean and std do not matter.
        waveform_T: Samples at the front end's rate.
    """
    statistics = FeatureStatistics()
    for piece_T in waveform_T.split(PIECE_SECONDS * frontend.sample_rate):
        if len(piece_T) >= frontend.window_length:  # a shorter rest fills no frame
            statistics += FeatureStatistics.of(frontend.log_mel(piece_T[None]))
    return statistics
