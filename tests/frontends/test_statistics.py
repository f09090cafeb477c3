"""Mean and standard deviation in one pass against all log-mels at once."""

import numpy as np
import pytest
import torch
from torchaudio.compliance.kaldi import fbank

from sslam.frontends import KaldiFbank, LogMel
from sslam.frontends.base import Frontend
from sslam.frontends.statistics import FeatureStatistics, recording_statistics


def recordings() -> list[torch.Tensor]:
    """Of several levels and lengths, also above 10 s and too short for a frame."""
    generator = torch.Generator().manual_seed(0)
    lengths = [16_000, 399, 400, 24_321, 350_000, 160_100]
    return [10**-number * torch.rand(length, generator=generator) for number, length in enumerate(lengths)]


def collected(frontend: Frontend) -> FeatureStatistics:
    return sum((recording_statistics(frontend, waveform) for waveform in recordings()), FeatureStatistics())


def test_feature_statistics__are_those_of_all_kaldi_frames_at_once() -> None:
    values = [
        fbank(piece[None], htk_compat=True, window_type="hanning", num_mel_bins=128, dither=0.0).numpy().ravel()
        for waveform in recordings()
        for piece in waveform.split(160_000)
        if len(piece) >= 400
    ]
    expected = np.concatenate(values).astype(np.float64)
    # Mean and standard deviation that are given play no part.
    for frontend in (KaldiFbank(), KaldiFbank(100, mean=3.0, std=2.0)):
        statistics = collected(frontend)
        assert statistics.num_values == len(expected)
        assert statistics.mean == pytest.approx(expected.mean(), abs=1e-3)
        assert statistics.std == pytest.approx(expected.std(), abs=1e-3)


def test_feature_statistics__normalise_what_they_were_taken_from() -> None:
    statistics = collected(LogMel())
    waveform = recordings()[4][: 15_600 * 20].reshape(20, 15_600)
    features = LogMel(mean=statistics.mean, std=statistics.std)(waveform)
    np.testing.assert_allclose((LogMel()(waveform) - statistics.mean) / statistics.std, features, atol=1e-5)


def test_feature_statistics__merge_exactly_whatever_the_pieces() -> None:
    values = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1000
    for sizes in ([1000], [1, 999], [500, 0, 500], [1] * 1000):
        statistics = sum(map(FeatureStatistics.of, values.split(sizes)), FeatureStatistics())
        assert statistics.num_values == 1000
        assert statistics.mean == pytest.approx(float(values.mean()), abs=1e-9)
        assert statistics.std == pytest.approx(float(values.std(correction=0)), abs=1e-9)


def test_feature_statistics__of_nothing() -> None:
    nothing = FeatureStatistics.of(torch.zeros(0))
    assert nothing + nothing == FeatureStatistics()
    assert FeatureStatistics().std == 0


@pytest.mark.parametrize("new", [KaldiFbank, LogMel])
def test_auto__is_nan_until_it_is_measured(new: type[KaldiFbank] | type[LogMel]) -> None:
    """A front end that nothing has measured must not normalise by anything, whatever its mean and std say."""
    frontend = new(96, mean=1.0, std=2.0, statistics="auto")
    waveform = torch.rand(1, frontend.crop_samples)
    assert frontend(waveform).isnan().all()
    assert frontend.of_length(2 * frontend.crop_samples).awaits_statistics
    measured = frontend.with_statistics(-3.0, 4.0)
    assert measured.architecture() == new(96, mean=-3.0, std=4.0).architecture()
    assert "statistics" not in measured.architecture()
    torch.testing.assert_close(measured(waveform), new(96, mean=-3.0, std=4.0)(waveform), rtol=0, atol=0)
    with pytest.raises(ValueError, match="std must be greater than 0, got 0"):
        frontend.with_statistics(0.0, 0.0)
