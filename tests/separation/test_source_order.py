"""Which estimates of two windows or channels are one source."""

from itertools import permutations

import numpy as np
import pytest

from sslam.separation.source_order import best_order, order_channels, order_like
from tests.separation.conftest import noise


def test_best_order__is_the_best_of_all_permutations_and_takes_nan() -> None:
    similarity = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    best = max(permutations(range(5)), key=lambda order: sum(similarity[i, j] for i, j in enumerate(order)))
    assert best_order(similarity).tolist() == list(best)
    assert sorted(best_order(np.full((3, 3), np.nan, np.float32)).tolist()) == [0, 1, 2]


def test_order_like__has_the_smallest_squared_difference() -> None:
    reference, estimates = noise(0.01, channels=4), noise(0.01, channels=4, seed=1)
    best = min(permutations(range(4)), key=lambda order: float(np.square(reference - estimates[list(order)]).sum()))
    assert order_like(reference, estimates).tolist() == list(best)


@pytest.mark.parametrize("delay", [0, 25])
@pytest.mark.parametrize("sign", [1, -1])
def test_order_channels__takes_delayed_inverted_and_quiet_channels(delay: int, sign: int) -> None:
    """Noises of one spectrum that come at different times; what is loud in one channel is quiet in the next."""
    swell = np.linspace(0.2, 1, 16_000, dtype=np.float32) ** 2
    sources = noise(1, channels=3) * np.stack([swell, swell[::-1], np.ones_like(swell)])
    gains = np.array([[1, 0.05, 0.3], [0.05, 1, 0.3], [0.3, 0.3, 1]], np.float32)
    channels = gains[..., None] * np.stack([sources, sign * np.roll(sources, delay, axis=-1), sources])
    shuffled = np.stack([channels[0], channels[1][[2, 0, 1]], channels[2][[1, 0, 2]]])
    order_channels(shuffled)
    assert np.array_equal(shuffled, channels)
