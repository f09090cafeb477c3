"""MFCCs against torchaudio's port of Kaldi, clip by clip."""

import pytest
import torch
from torchaudio.compliance import kaldi

from sslam.frontends import MFCC


@pytest.mark.parametrize(("coefficients", "bands"), [(20, 40), (13, 23)])
def test_mfcc__is_kaldis(coefficients: int, bands: int) -> None:
    waveform = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) + 0.01
    waveform[1, 8000:] = 0
    num_samples = torch.tensor([16000, 8000])
    features = MFCC(100, coefficients, bands)(waveform, num_samples)
    assert features.shape == (2, 100, coefficients)
    for clip, length, found in zip(waveform, num_samples, features, strict=True):
        own = clip[:length]
        expected = kaldi.mfcc(
            (own - own.mean())[None],
            num_ceps=coefficients,
            num_mel_bins=bands,
            window_type="hanning",
            dither=0.0,
            use_energy=False,
            low_freq=20.0,
            high_freq=0.0,
            cepstral_lifter=22.0,
        )
        torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-4, atol=1e-3)
        assert found[len(expected) :].eq(0).all()


def test_mfcc__is_built_by_its_architecture_and_of_any_length() -> None:
    frontend = MFCC(num_coefficients=13)
    again = MFCC(**frontend.architecture())
    assert (again.num_mel_bins, again.of_length(32000).num_frames) == (13, 198)
    waveform = torch.randn(1, 16000)
    assert torch.equal(again(waveform), frontend(waveform))


def test_mfcc__refuses_more_coefficients_than_bands() -> None:
    with pytest.raises(ValueError, match="num_coefficients must be at most num_mel_bands, got 50 of 40 bands"):
        MFCC(num_coefficients=50)
