"""Windows cover a recording, and joined they are the recording."""

import numpy as np
import pytest

from sslam.separation.windows import join_windows, window_starts


@pytest.mark.parametrize("window", [100, 101])
@pytest.mark.parametrize("overlap", [1, 10, 33])
def test_window_starts__windows_of_one_length_overlap_and_cover(window: int, overlap: int) -> None:
    for num_samples in range(window + 1, 6 * window):
        starts = window_starts(num_samples, window, overlap)
        assert starts[0] == 0
        assert starts[-1] == num_samples - window
        steps = np.diff(starts)
        assert steps.max() <= window - overlap
        assert steps.max() - steps.min() <= 1
        assert (len(starts) - 1) * (window - overlap) + overlap < num_samples  # one window fewer does not cover it


@pytest.mark.parametrize("num_samples", [101, 109, 150, 189, 190, 191, 272, 555])
def test_join_windows__permuted_windows_of_a_recording_give_it_back(num_samples: int) -> None:
    generator = np.random.default_rng(num_samples)
    recording = generator.standard_normal((3, 2, num_samples)).astype(np.float32)
    starts = window_starts(num_samples, 100, 10)
    order = [np.arange(3), *(generator.permutation(3) for _ in starts[1:])]
    windows = [recording[own, :, start : start + 100] for own, start in zip(order, starts, strict=True)]
    pieces = list(join_windows(windows, starts, 10))
    np.testing.assert_allclose(np.concatenate(pieces, axis=-1), recording, atol=1e-6)
    assert max(piece.shape[-1] for piece in pieces) <= 100


def test_join_windows__fades_in_the_middle_of_the_overlap() -> None:
    starts, level = [0, 60], [1.0, 3.0]
    windows = [np.full((1, 1, 100), value, np.float32) for value in level]
    joined = np.concatenate(list(join_windows(windows, starts, 10)), axis=-1)[0, 0]
    assert joined.shape == (160,)
    assert (joined[:75] == 1).all()  # overlap 60 to 100, its middle 80
    assert (joined[85:] == 3).all()
    assert (np.diff(joined[74:86]) > 0).all()
    assert joined[79:81].mean() == pytest.approx(2)
