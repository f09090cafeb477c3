"""Front ends of clips of any length."""

import warnings
from typing import Any

import pytest
import torch

from sslam.frontends import Frontend, KaldiFbank, LogMel

FRONT_ENDS = [LogMel(mean=-2.0, std=3.0, log_offset=0.01), KaldiFbank(num_frames=128, num_mel_bins=64, mean=-3.0)]


@pytest.mark.parametrize("frontend", FRONT_ENDS)
@pytest.mark.parametrize("samples", [400, 2000, 15360, 80000, 160001])
def test_of_length__has_the_frames_of_the_clip_without_a_warning(frontend: Frontend, samples: int) -> None:
    waveform = torch.randn(1, samples, generator=torch.Generator().manual_seed(0)) * 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = frontend.of_length(samples)(waveform)
    assert features.shape == (1, frontend.of_length(samples).num_frames, frontend.num_mel_bins)
    assert features.isfinite().all()


@pytest.mark.parametrize("frontend", FRONT_ENDS)
def test_of_length__only_the_number_of_frames_differs(frontend: Any) -> None:
    other = frontend.of_length(frontend.crop_samples * 2)
    assert type(other) is type(frontend)
    assert other.architecture() == frontend.architecture() | {"num_frames": other.num_frames}
    waveform = torch.randn(2, frontend.crop_samples * 2, generator=torch.Generator().manual_seed(0)) * 0.1
    waveform -= waveform.mean(dim=1, keepdim=True)  # what KaldiFbank subtracts is of the whole clip
    own = waveform[:, : frontend.crop_samples]
    first = frontend(own - own.mean(dim=1, keepdim=True))
    torch.testing.assert_close(other(waveform)[:, : frontend.num_frames], first, rtol=1e-3, atol=1e-2)


def test_of_length__frames_of_ten_seconds() -> None:
    assert LogMel().of_length(160_000).num_frames == 1000
    assert KaldiFbank().of_length(160_000).num_frames == 998  # whole windows


@pytest.mark.parametrize("frontend", FRONT_ENDS)
def test_of_length__is_built_once_and_no_part_of_the_front_end(frontend: Frontend) -> None:
    names = list(frontend.state_dict()), [name for name, _ in frontend.named_modules()]
    first = frontend.of_length(48_000)
    assert frontend.of_length(48_001) is first or frontend.frames_of(48_001) != first.num_frames
    assert frontend.of_length(48_000) is first
    assert (list(frontend.state_dict()), [name for name, _ in frontend.named_modules()]) == names
    assert not list(frontend.parameters())


@pytest.mark.parametrize("frontend", FRONT_ENDS)
def test_crop_samples__are_what_the_frames_hear(frontend: Frontend) -> None:
    heard = torch.randn(1, frontend.crop_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    heard -= heard.mean()  # which KaldiFbank subtracts
    features = frontend(heard)
    more = torch.nn.functional.pad(heard, (0, frontend.hop_length), value=0.0)
    torch.testing.assert_close(frontend(more), features, atol=1e-4, rtol=1e-4)
    # The last frame reaches to the end: of a clip that is a hop shorter it hears less.
    shorter = frontend(heard[:, : -frontend.hop_length])
    assert (shorter[0, -1] - features[0, -1]).abs().max() > 0.1
