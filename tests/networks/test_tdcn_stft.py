"""TDCN++ over an STFT beside the published transform written out in NumPy; its blocks have their own tests."""

from typing import Any

import numpy as np
import pytest
import torch

from sslam.networks import STFTTDCN
from sslam.networks.separator import mixture_consistency
from sslam.networks.tdcn_masking import MaskingTDCN

SAMPLES = 501


def small(**changes: Any) -> STFTTDCN:
    torch.manual_seed(0)
    sizes = {"window_seconds": 0.004, "hop_seconds": 0.001, "width": 16, "hidden_width": 20, "num_blocks": 3}
    return STFTTDCN(**({"num_sources": 2} | sizes | changes)).double()


def noise(num_samples: int = SAMPLES) -> torch.Tensor:
    return 0.1 * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_loops(separator: STFTTDCN, mixture: np.ndarray) -> torch.Tensor:
    """Estimates before consistency, (N, T), of one clip (T,): ``tf.signal.stft`` with pad_end, and its inverse."""
    window, hop, length = separator.window_length, separator.hop_length, separator.fft_length
    hann = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window))
    frames = -(-len(mixture) // hop)
    padded = np.concatenate([mixture, np.zeros(window)])
    spectrum = np.stack([np.fft.rfft(padded[hop * f : hop * f + window] * hann, length) for f in range(frames)])
    magnitude = np.abs(spectrum)
    normed = (magnitude - magnitude.mean()) / np.sqrt(magnitude.var() + 1e-3)
    normed = normed * separator.magnitude_scale.item() + separator.magnitude_shift.item()
    with torch.no_grad():
        core = MaskingTDCN.core(separator, torch.from_numpy(normed.T)[None])
        masks = separator.masks(core)[0].numpy()
    power = np.array([sum(hann[i] ** 2 for i in range(start, window, hop)) for start in range(hop)])
    dual = hann / np.tile(power, -(-window // hop))[:window]
    estimates = np.zeros((separator.num_sources, len(mixture) + window))
    for source in range(separator.num_sources):
        for frame in range(frames):
            part = np.fft.irfft(masks[source, :, frame] * spectrum[frame], length)[:window]
            estimates[source, hop * frame : hop * frame + window] += part * dual
    return torch.from_numpy(estimates[:, : len(mixture)])


@pytest.mark.parametrize("seconds", [0.004, 0.003])  # 64 samples, and 48 with an FFT of 64
def test_stft_tdcn__is_the_published_transform(seconds: float) -> None:
    separator, mixture = small(window_seconds=seconds, consistency="none"), noise()
    with torch.no_grad():
        separator.magnitude_scale.fill_(1.3)
        separator.magnitude_shift.fill_(-0.2)
        found = separator(mixture)
    for clip in range(2):
        expected = by_loops(separator, mixture[clip].numpy())
        torch.testing.assert_close(found[clip], expected, rtol=1e-6, atol=1e-8)


def test_stft_tdcn__consistency_adds_the_estimates_up_to_the_mixture() -> None:
    separator, mixture = small(), noise()
    with torch.no_grad():
        found = separator(mixture)
        core = separator.core(separator.encode(mixture))
        assert separator.shares is not None
        shares = separator.shares(core.mean(dim=-1)).softmax(dim=-1)
    torch.testing.assert_close(found.sum(dim=1), mixture)
    estimates = torch.stack([by_loops(separator, clip.numpy()) for clip in mixture])
    torch.testing.assert_close(found, mixture_consistency(estimates, mixture, shares), rtol=1e-6, atol=1e-8)


def test_stft_tdcn__masks_of_one_give_the_signal_back_away_from_the_ends() -> None:
    separator, mixture = small(), noise()
    code = separator.encode(mixture)
    back = separator.decode(code.unsqueeze(1), SAMPLES)[:, 0]
    torch.testing.assert_close(back[:, 64:], mixture[:, 64:], rtol=1e-6, atol=1e-7)


def test_stft_tdcn__has_the_published_sizes_and_no_learned_basis() -> None:
    separator = STFTTDCN(num_sources=4)
    assert (separator.window_length, separator.hop_length, separator.num_basis) == (512, 128, 257)
    # As checkpoints and the states of optimizers have them.
    names = [name for name in separator.state_dict() if not name.startswith("blocks.")]
    ends = ["bottleneck.weight", "bottleneck.bias", "bottleneck.scale", "mask.weight", "shares.weight"]
    assert names == ["magnitude_scale", "magnitude_shift", *ends]


def test_stft_tdcn__is_built_again_from_its_arguments() -> None:
    separator = small().float()
    again = STFTTDCN(**separator.architecture())
    again.load_state_dict(separator.state_dict())
    mixture = noise().float()
    assert again(mixture).equal(separator(mixture))
    assert separator(mixture[:, :1]).shape == (2, 2, 1)


def test_stft_tdcn__gaps_between_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="hop_seconds must be at most half of window_seconds"):
        STFTTDCN(window_seconds=0.01, hop_seconds=0.008)
