"""Log-mel spectrograms against librosa and the formula of VGGish, frames at the end, what padding must not change."""

import warnings

import librosa
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sslam.frontends import LogMel
from tests.reference.formulas import wav_formula

SILENCE = np.log(0.001)


def mel_of(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def triangles(num_mel_bins: int, low: float, high: float) -> NDArray[np.float64]:
    """Of VGGish, band by band and bin by bin: (257, num_mel_bins)."""
    edges = np.linspace(mel_of(low), mel_of(high), num_mel_bins + 2)
    banks = np.zeros((257, num_mel_bins))
    for band in range(num_mel_bins):
        left, centre, right = edges[band : band + 3]
        for bin_, mel in enumerate(mel_of(np.arange(257) * 16000 / 512)):
            banks[bin_, band] = max(0.0, min((mel - left) / (centre - left), (right - mel) / (right - centre)))
    return banks


def naive_log_mel(waveform: NDArray[np.float32], num_frames: int = 96) -> NDArray[np.float64]:
    needed = 400 + 160 * (num_frames - 1)
    padded = np.pad(waveform.astype(np.float64), (0, max(0, needed - len(waveform))))[:needed]
    # librosa centres the window in the transform, so its frames begin 56 samples early.
    spectrum = librosa.stft(np.pad(padded, 56), n_fft=512, hop_length=160, win_length=400, window="hann", center=False)
    return np.log(np.abs(spectrum).T @ triangles(64, 125.0, 7500.0) + 0.001)


def test_mel_banks__are_those_of_vggish_and_near_those_of_librosa() -> None:
    banks = LogMel().mel_banks_KF.numpy()
    np.testing.assert_allclose(banks, triangles(64, 125.0, 7500.0), atol=1e-4)
    # librosa's triangles are straight in Hz, VGGish's in mel; they have the same edges.
    other = librosa.filters.mel(sr=16000, n_fft=512, n_mels=64, fmin=125, fmax=7500, htk=True, norm=None).T
    np.testing.assert_allclose(banks, other, atol=0.05)
    assert ((banks > 1e-3) == (other > 1e-3)).mean() > 0.999


@pytest.mark.parametrize("samples", [15360, 15600, 24000, 3000])
@pytest.mark.filterwarnings("ignore:Clips of")
def test_log_mel__is_the_formula(samples: int) -> None:
    waveform = wav_formula(0, seconds=2.0)[:samples]
    features = LogMel()(torch.from_numpy(waveform)[None])[0]
    assert features.shape == (96, 64)
    np.testing.assert_allclose(features, naive_log_mel(waveform), rtol=1e-4, atol=1e-4)


def test_log_mel__a_tone_is_loudest_in_its_band() -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(15600) / 16000)
    centres = np.linspace(mel_of(125.0), mel_of(7500.0), 66)[1:-1]
    loudest = LogMel()(tone[None])[0].argmax(dim=1)
    assert (loudest == int(np.abs(centres - mel_of(1000.0)).argmin())).all()


def test_log_mel__frames_past_the_end_are_filled_up_with_zeros() -> None:
    frontend = LogMel()
    assert frontend.crop_samples == 15600
    waveform = torch.randn(1, 15600, generator=torch.Generator().manual_seed(0)) * 0.1
    whole, cut = frontend(waveform), frontend(waveform[:, :15360])
    assert torch.equal(whole[:, :94], cut[:, :94])  # those with whole windows in 0.96 s
    assert (whole[:, 94:] != cut[:, 94:]).any(dim=2).all()
    assert torch.equal(cut, frontend(torch.nn.functional.pad(waveform[:, :15360], (0, 240))))


def test_log_mel__padding_to_a_longer_batch_changes_nothing() -> None:
    frontend = LogMel(num_frames=150)
    lengths = torch.tensor([24000, 20000, 18000])
    waveforms = torch.randn(3, 24000, generator=torch.Generator().manual_seed(0)) * 0.1  # the padding is not silent
    batch = frontend(waveforms, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(batch[row], frontend(waveforms[row : row + 1, :length])[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch[2, 113:], SILENCE, rtol=1e-5)  # frame 113 begins at sample 18080


@pytest.mark.parametrize("samples", [0, 1, 399, 400])
@pytest.mark.filterwarnings("ignore:Clips of")
def test_log_mel__tiny_and_silent_clips(samples: int) -> None:
    np.testing.assert_allclose(LogMel()(torch.zeros(2, samples)), np.full((2, 96, 64), SILENCE), rtol=1e-5)


def test_log_mel__nan_stays_in_its_clip() -> None:
    waveform = torch.zeros(2, 15360)
    waveform[0, 8000] = torch.nan
    features = LogMel()(waveform)
    assert features[0].isnan().any()
    assert features[1].isfinite().all()


def test_log_mel__normalises_by_what_it_is_given() -> None:
    waveform = torch.randn(1, 15360, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(LogMel(mean=-2.0, std=3.0)(waveform), (LogMel()(waveform) + 2.0) / 3.0)


def test_log_mel__stays_in_float32_under_autocast() -> None:
    frontend, waveform = LogMel(), torch.randn(2, 15360)
    with torch.autocast("cpu", torch.bfloat16):
        features = frontend(waveform)
    assert features.dtype == torch.float32
    assert torch.equal(features, frontend(waveform))


def test_log_mel__gradients_of_silence_are_finite() -> None:
    waveform = torch.zeros(1, 15360, requires_grad=True)
    LogMel()(waveform).sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()


def test_architecture__builds_the_same_front_end() -> None:
    frontend = LogMel(num_frames=100, mean=-2.0, std=3.0, low_frequency=60.0, high_frequency=7000.0, log_offset=0.01)
    again = LogMel(**frontend.architecture())  # type: ignore[arg-type]
    waveform = torch.randn(1, 16000)
    assert torch.equal(frontend(waveform), again(waveform))


@pytest.mark.parametrize(("samples", "frames"), [(15360, 96), (15361, 97), (160000, 1000), (0, 1)])
def test_of_length__has_the_frames_that_begin_in_the_clip(samples: int, frames: int) -> None:
    frontend = LogMel(mean=-2.0, std=3.0)
    other = frontend.of_length(samples)
    assert other.architecture() == frontend.architecture() | {"num_frames": frames}
    assert frontend.num_frames == 96


@pytest.mark.parametrize(("seconds", "frames"), [(0.96, 96), (0.975, 96), (5.0, 500), (10.0, 1000)])
def test_log_mel__usual_lengths_give_no_warning(seconds: float, frames: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogMel(num_frames=frames)(torch.zeros(1, round(16000 * seconds)))


def test_log_mel__clips_of_another_length_than_the_frames_are_pointed_out() -> None:
    with pytest.warns(
        UserWarning, match="Clips of 10 s have 1000 frames, and the front end makes 96 of them by cutting"
    ):
        LogMel()(torch.zeros(1, 160000))
    with pytest.warns(
        UserWarning, match="Clips of 0.5 s have 50 frames, .* by padding. Set the front end's num_frames"
    ):
        LogMel()(torch.zeros(1, 8000))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0."),
        ({"num_mel_bins": 0}, "num_mel_bins must be at least 4, got 0."),
        ({"std": 0.0}, "std must be greater than 0, got 0.0."),
        ({"log_offset": 0.0}, "log_offset must be greater than 0, got 0.0."),
        ({"low_frequency": 8000.0}, r"half the sample rate \(8000 Hz\), got 8000 and 7500 Hz."),
        ({"high_frequency": 9000.0}, "low_frequency must be below high_frequency, and both between 0 and half"),
    ],
)
def test_log_mel__bad_values_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMel(**arguments)  # type: ignore[arg-type]
