"""The front end against the published numbers and against torchaudio, and what padding must not change."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio

from sslam.frontends import KaldiFbank
from tests.reference.formulas import wav_formula

REFERENCE = Path(__file__).parents[1] / "reference"
NUMBERS = np.load(REFERENCE / "sslam_misc.npz")
META = json.loads((REFERENCE / "sslam_misc.json").read_text())["fbank"]
# log-mels of nearly empty bins, where float32 cancels, are compared at 1e-4 absolute
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize(("i", "seconds"), [(0, 10.0), (1, 6.5)])
def test_kaldi_fbank__matches_the_published_front_end(i: int, seconds: float) -> None:
    frontend = KaldiFbank()
    waveform = torch.from_numpy(wav_formula(i, seconds=seconds))
    np.testing.assert_allclose(waveform[:64], NUMBERS[f"wav{i}_head"], rtol=1e-6)
    raw = frontend.log_mel((waveform - waveform.mean())[None])[0]
    assert len(raw) == META[f"wav{i}"]["raw_frames"]
    assert raw.mean().item() == pytest.approx(META[f"wav{i}"]["raw_mean"], rel=1e-4)
    assert raw.std().item() == pytest.approx(META[f"wav{i}"]["raw_std"], rel=1e-4)
    np.testing.assert_allclose(raw[::7, ::3], NUMBERS[f"fbank{i}_raw"], **TOLERANCE)
    normalised = frontend(waveform[None])[0]
    assert normalised.shape == (1024, 128)
    np.testing.assert_allclose(normalised[::7, ::3], NUMBERS[f"fbank{i}_norm_sub"], **TOLERANCE)
    assert normalised.mean().item() == pytest.approx(META[f"wav{i}"]["norm_mean"], rel=1e-4)
    assert normalised[-1, -1].item() == pytest.approx(META[f"wav{i}"]["pad_value_after_norm"], rel=1e-6)


def test_kaldi_fbank__of_a_waveform_resampled_from_32_khz() -> None:
    waveform = torch.from_numpy(wav_formula(0, sample_rate=32000))
    resampled = torchaudio.functional.resample(waveform, 32000, 16000)  # the resampler of the published code
    np.testing.assert_allclose(resampled[:256], NUMBERS["resample32k_head"], rtol=1e-4, atol=1e-6)
    raw = KaldiFbank().log_mel((resampled - resampled.mean())[None])[0]
    np.testing.assert_allclose(raw[::7, ::3], NUMBERS["fbank_from32k_raw_sub"], **TOLERANCE)


def test_kaldi_fbank__matches_torchaudio() -> None:
    waveform = torch.randn(1, 24000) * 0.1
    expected = torchaudio.compliance.kaldi.fbank(
        waveform, htk_compat=True, window_type="hanning", num_mel_bins=64, dither=0.0, use_energy=False
    )
    torch.testing.assert_close(KaldiFbank(num_mel_bins=64).log_mel(waveform)[0], expected, rtol=1e-5, atol=1e-4)


def test_kaldi_fbank__long_clips_keep_the_first_frames() -> None:
    waveform = torch.from_numpy(wav_formula(0, seconds=12.0))
    # The mean of the whole clip is subtracted, so the two differ by an offset, which fbank removes from each window.
    frontend = KaldiFbank(num_frames=512)
    torch.testing.assert_close(frontend(waveform[None]), frontend(waveform[None, : 16000 * 8]), rtol=1e-4, atol=1e-3)


def test_kaldi_fbank__padding_to_a_longer_batch_changes_nothing() -> None:
    frontend = KaldiFbank(num_frames=512)
    lengths = torch.tensor([40000, 16000, 399, 0])
    waveforms = torch.zeros(4, 40000)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = torch.randn(int(length)) * 0.1 + 0.05
    batch = frontend(waveforms, lengths)
    for row, length in enumerate(lengths[:2]):
        torch.testing.assert_close(batch[row], frontend(waveforms[row : row + 1, :length])[0], rtol=1e-4, atol=1e-4)
    # Shorter than one window: nothing but padding, and no NaN.
    assert batch[2].unique().numel() == batch[3].unique().numel() == 1
    assert batch[2, 0, 0].item() == pytest.approx(-frontend.mean / (2 * frontend.std))


@pytest.mark.parametrize("samples", [1, 399, 400, 401])
def test_kaldi_fbank__tiny_and_silent_clips(samples: int) -> None:
    features = KaldiFbank(num_frames=128)(torch.zeros(1, samples))
    assert features.shape == (1, 128, 128)
    assert features.isfinite().all()


def test_kaldi_fbank__stays_in_float32_under_autocast() -> None:
    frontend, waveform = KaldiFbank(num_frames=128), torch.randn(2, 16000)
    with torch.autocast("cpu", torch.bfloat16):
        features = frontend(waveform)
    assert features.dtype == torch.float32
    assert torch.equal(features, frontend(waveform))


@pytest.mark.parametrize(("seconds", "frames"), [(10.0, 1024), (5.0, 512), (1.0, 128)])
def test_kaldi_fbank__published_lengths_give_no_warning(seconds: float, frames: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KaldiFbank(num_frames=frames)(torch.zeros(1, int(16000 * seconds)))


def test_kaldi_fbank__clips_of_another_length_than_the_frames_are_pointed_out() -> None:
    with pytest.warns(UserWarning, match="Clips of 5 s have 498 frames, and the front end makes 1024 of them by pad"):
        KaldiFbank()(torch.zeros(1, 80000))
    with pytest.warns(UserWarning, match="makes 512 of them by cutting off the end. Set the front end's num_frames"):
        KaldiFbank(num_frames=512)(torch.zeros(1, 160000))


def test_kaldi_fbank__bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="std must be greater than 0, got 0"):
        KaldiFbank(std=0)
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        KaldiFbank(num_frames=0)
