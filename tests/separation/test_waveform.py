"""Sources of waveforms: they add up, keep rate, length and order, and are those of the separator."""

import numpy as np
import pytest
import torch

from sslam.separation import separate_waveform
from sslam.separation.waveform import hand_out_missing, separate_rows
from tests.separation.conftest import RATE, Array, BandSeparator, noise, tiny_separator, tone


@pytest.mark.parametrize("consistency", ["pred_source", "none"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.01, 0.3, 3.217])
@pytest.mark.parametrize("channels", [None, 1, 2])
def test_separate_waveform__sources_add_up_at_the_same_rate_and_length(
    consistency: str, rate: int, seconds: float, channels: int | None
) -> None:
    waveform = noise(seconds, rate, channels or 1)
    if channels is None:
        waveform = waveform[0]
    separator = tiny_separator(3, consistency=consistency)
    sources = separate_waveform(separator, waveform, rate, window_seconds=1)
    assert sources.shape == (3, *waveform.shape)
    assert sources.dtype == torch.float32
    np.testing.assert_allclose(sources.sum(dim=0), waveform, atol=1e-5)
    assert (sources[0] - sources[1]).abs().max() > 1e-4


def test_separate_waveform__a_clip_goes_through_the_separator_as_a_whole() -> None:
    separator = tiny_separator(3)
    waveform = torch.from_numpy(noise(1.3))
    with torch.no_grad():
        expected = separator(waveform)[0]
    torch.testing.assert_close(separate_waveform(separator, waveform[0], RATE), expected, atol=1e-6, rtol=0)
    # The network's norm runs over the whole clip: windows give something else.
    in_windows = separate_waveform(separator, waveform[0], RATE, window_seconds=1)
    assert (in_windows - expected).abs().max() > 1e-3


def test_separate_waveform__takes_arrays_lists_and_integers() -> None:
    separator = tiny_separator()
    waveform = np.round(8 * noise(0.1))
    expected = separate_waveform(separator, waveform, RATE)
    assert torch.equal(separate_waveform(separator, waveform.astype(np.int64).tolist(), RATE), expected)
    assert torch.equal(separate_waveform(separator, torch.from_numpy(waveform).double(), RATE), expected)


def test_separate_waveform__a_silent_one_has_silent_sources() -> None:
    for separator in (tiny_separator(), tiny_separator(consistency="none")):
        assert not separate_waveform(separator, np.zeros((2, 48_000)), 44_100, window_seconds=1).any()


@pytest.mark.parametrize("seconds", [2.0, 2.0001, 3.9, 11.3])
def test_separate_waveform__the_order_of_sources_stays_over_windows(seconds: float) -> None:
    """One tone becomes quieter and the other louder; the separator puts the louder one first."""
    fall = np.linspace(1, 0.1, round(seconds * RATE), dtype=np.float32)
    low, high = fall * tone(300, seconds), 0.9 * fall[::-1] * tone(3000, seconds)
    separator = BandSeparator()
    if seconds > 3:  # alone, the first and the last window are in different orders
        first, last = (low + high)[: 2 * RATE], (low + high)[-2 * RATE :]
        assert correlation(separate_waveform(separator, first, RATE)[0].numpy(), low[: 2 * RATE]) > 0.9
        assert correlation(separate_waveform(separator, last, RATE)[1].numpy(), low[-2 * RATE :]) > 0.9
    sources = separate_waveform(separator, low + high, RATE, window_seconds=2).numpy()
    assert correlation(sources[0], low) > 0.99
    assert correlation(sources[1], high) > 0.99
    np.testing.assert_allclose(sources.sum(axis=0), low + high, atol=1e-5)


def test_separate_waveform__channels_share_the_order_of_sources() -> None:
    """Each tone is louder on its side, and the right side is late and inverted."""
    beats = (1 + tone(3, 1)) / 2
    low, high = beats * tone(300, 1), beats[::-1] * tone(3000, 1)
    stereo = np.stack([low + 0.2 * high, -np.roll(0.2 * low + high, 25)])
    alone = [separate_waveform(BandSeparator(), channel, RATE).numpy() for channel in stereo]
    assert correlation(alone[0][0], low) > 0.9
    assert correlation(alone[1][0], np.roll(high, 25)) < -0.9
    sources = separate_waveform(BandSeparator(), stereo, RATE).numpy()
    assert correlation(sources[0, 0], low) > 0.9
    assert correlation(sources[0, 1], np.roll(low, 25)) < -0.9
    np.testing.assert_allclose(sources.sum(axis=0), stereo, atol=1e-5)


def test_separate_waveform__a_channel_that_is_silent_changes_nothing() -> None:
    mono = noise(0.5)[0]
    separator = tiny_separator(3)
    sources = separate_waveform(separator, np.stack([np.zeros_like(mono), mono]), RATE)
    assert not sources[:, 0].any()
    alone = separate_waveform(separator, mono, RATE)
    assert sorted(sources[:, 1].norm(dim=1).tolist()) == pytest.approx(sorted(alone.norm(dim=1).tolist()), rel=1e-4)


def test_separate_waveform__the_band_that_the_network_does_not_see_goes_with_the_source_that_sounds() -> None:
    rate = 48_000
    on = np.repeat(np.array([1, 0], np.float32), rate // 2)
    hiss = 0.1 * tone(15_000, 1, rate)
    low, high = on * tone(300, 1, rate), (1 - on) * tone(3000, 1, rate)
    sources = separate_waveform(BandSeparator(), low + high + hiss, rate).numpy()
    middles = {"first": slice(rate // 8, 3 * rate // 8), "second": slice(5 * rate // 8, 7 * rate // 8)}
    owner = {"first": low, "second": high}
    for name, middle in middles.items():
        loud = max(sources, key=lambda source, part=middle: float(np.square(source[part]).sum()))  # type: ignore[misc]
        np.testing.assert_allclose(loud[middle], (owner[name] + hiss)[middle], atol=0.02)


def test_separate_waveform__memory_is_bounded_by_the_windows() -> None:
    separator = BandSeparator()
    separate_waveform(separator, noise(33, RATE, 2), RATE, window_seconds=5, batch_size=4)
    assert max(shape[0] for shape in separator.shapes) == 4
    assert {shape[1] for shape in separator.shapes} == {5 * RATE}
    separator.shapes.clear()
    separate_waveform(separator, noise(33), RATE, window_seconds=20, batch_size=4)
    assert separator.shapes == [(2, 20 * RATE)]


def test_separate_rows__a_batch_equals_its_rows() -> None:
    separator = tiny_separator(3)
    rows = noise(0.7, 22_050, channels=5)
    together = separate_rows(separator, rows, 22_050, batch_size=2)
    for row, expected in zip(rows, together, strict=True):
        alone = separate_rows(separator, row[None], 22_050, batch_size=1)[0]
        np.testing.assert_allclose(alone, expected, atol=1e-6)


def test_hand_out_missing__is_in_proportion_to_the_power_of_the_moment() -> None:
    generator = np.random.default_rng(0)
    rate, num_samples = 100, 40  # 5 samples are 50 ms
    estimates: Array = generator.standard_normal((3, num_samples)).astype(np.float32)
    estimates[:, :12] = 0
    mixture: Array = generator.standard_normal(num_samples).astype(np.float32)
    expected = np.empty_like(estimates)
    for t in range(num_samples):
        around = estimates[:, max(0, t - 2) : t + 3].astype(np.float64)
        power = [float(np.sum(row**2)) / 5 + 1e-12 for row in around]
        missing = mixture[t] - sum(float(row[t]) for row in estimates)
        expected[:, t] = [row[t] + p / sum(power) * missing for row, p in zip(estimates, power, strict=True)]
    given = hand_out_missing(estimates, mixture, rate)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    np.testing.assert_allclose(given[:, :9], np.tile(mixture[:9] / 3, (3, 1)), atol=1e-6)  # all silent: equal shares


@pytest.mark.parametrize(
    ("waveform", "settings", "message"),
    [
        (np.zeros(0), {}, r"must have shape \(T,\) or \(C, T\) and samples, got shape \(0,\)"),
        (np.zeros((2, 2, 100)), {}, r"got shape \(2, 2, 100\)"),
        (np.full(100, np.nan), {}, "holds NaN or infinite samples. Leave them out"),
        (np.zeros(20), {}, "too short: 20 samples at the separator's 16000 Hz, and at least 21 are needed. Leave it"),
        (np.zeros(100), {"window_seconds": 0.5}, "window_seconds must be at least 1 and finite, got 0.5"),
        (np.zeros(100), {"window_seconds": float("nan")}, "window_seconds must be at least 1 and finite, got nan"),
        (np.zeros(100), {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_separate_waveform__what_does_not_fit_is_explained(
    waveform: Array, settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        separate_waveform(tiny_separator(), waveform, RATE, **settings)  # type: ignore[arg-type]


def test_separate_waveform__estimates_that_are_not_finite_are_refused() -> None:
    separator = tiny_separator()
    torch.nn.init.constant_(separator.decoder.weight, torch.inf)
    with pytest.raises(ValueError, match="The estimates are not finite. Scale the waveform down"):
        separate_waveform(separator, noise(3, channels=2), RATE, window_seconds=1)


def correlation(a: Array, b: Array) -> float:
    return float(np.corrcoef(a, b)[0, 1])
