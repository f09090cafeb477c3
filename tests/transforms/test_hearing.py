"""Another hearing of a clip: each change alone, against what it says."""

import math

import pytest
import torch
from torch import Tensor

from sslam.transforms import Hearing

STILL = {"stretch": 0.0, "response_deviation": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(num_clips: int = 3, num_frames: int = 64, bins: int = 8) -> Tensor:
    return torch.randn(num_clips, num_frames, bins, generator=generator(1))


@pytest.mark.parametrize("view_frames", [16, None, 100])
def test_hearing__begins_elsewhere_and_goes_round(view_frames: int | None) -> None:
    clip_BLF = clips()
    heard_BVF = Hearing(view_frames, **STILL)(clip_BLF, None, generator())
    length = min(64, view_frames or 64)
    assert heard_BVF.shape == (3, length, 8)
    starts = [
        next(s for s in range(64) if torch.equal(clip.roll(-s, dims=0)[:length], heard))
        for clip, heard in zip(clip_BLF, heard_BVF, strict=True)
    ]
    assert len(set(starts)) > 1


def test_hearing__speed_is_within_the_stretch_and_interpolated() -> None:
    """A ramp in time is a ramp of another slope, but for the frame at which the clip begins again."""
    ramp_BLF = torch.arange(640.0).view(1, 640, 1).expand(200, -1, 4)
    heard_BVF = Hearing(16, stretch=0.5, response_deviation=0)(ramp_BLF, None, generator())
    slope_BV = heard_BVF[..., 0].diff(dim=1)
    steady_B = (slope_BV - slope_BV[:, :1]).abs().amax(dim=1) < 1e-2
    speed_B = slope_BV[steady_B, 0]
    assert steady_B.float().mean() > 0.9
    assert math.exp(-0.5) - 1e-3 <= speed_B.min() < 0.7
    assert 1.5 < speed_B.max() <= math.exp(0.5) + 1e-3


def test_hearing__spectrum_is_stretched_about_a_bin_and_goes_on_at_its_ends() -> None:
    ramp_BLF = torch.arange(32.0).expand(200, 4, 32)
    heard_BVF = Hearing(stretch=0.3, response_deviation=0)(ramp_BLF, None, generator())
    slope_BF = heard_BVF[:, 0].diff(dim=1)
    widest_B = slope_BF.amax(dim=1)
    assert (slope_BF >= -1e-4).all()
    assert math.exp(-0.3) - 1e-3 <= widest_B.min() < 0.8
    assert 1.25 < widest_B.max() <= math.exp(0.3) + 1e-3
    assert heard_BVF.min() >= 0
    assert heard_BVF.max() <= 31 + 1e-4
    fixed_B = (heard_BVF[:, 0] - torch.arange(32)).abs().amin(dim=1)
    assert fixed_B.max() < 0.3  # some bin stays where it is


def test_hearing__response_is_smooth_and_of_the_deviation() -> None:
    heard_BVF = Hearing(stretch=0, response_deviation=6)(torch.zeros(4000, 2, 64), None, generator())
    assert torch.equal(heard_BVF[:, 0], heard_BVF[:, 1])
    decibels_BF = 10 / math.log(10) * heard_BVF[:, 0]
    assert decibels_BF.square().mean().sqrt().item() == pytest.approx(6, rel=0.05)
    assert decibels_BF.diff(dim=1).abs().mean() < 1


def test_hearing__padding_is_not_heard() -> None:
    clip_BLF = clips(num_clips=300)
    clip_BLF[:, 10:] = 1e6
    heard_BVF = Hearing(response_deviation=0)(clip_BLF, torch.full((300,), 10), generator())
    assert heard_BVF.shape == clip_BLF.shape
    assert heard_BVF.max() < 100


@pytest.mark.parametrize(
    ("argument", "message"),
    [({"view_frames": 0}, "at least 1"), ({"stretch": 1}, "less than 1"), ({"response_deviation": -1}, "at least 0")],
)
def test_hearing__refuses_what_is_out_of_range(argument: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hearing(**argument)
