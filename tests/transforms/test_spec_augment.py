"""SpecAugment against a version of its text in plain numpy, one example at a time, and what its parts must keep."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensorMode

from sslam.transforms import SpecAugment
from sslam.transforms.spec_augment import warp_map, warp_time

NO_MASKS = {"num_frequency_masks": 0, "num_time_masks": 0}
MANY = 20_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_warp(image: NDArray[np.float64], centre: float, shift: float) -> NDArray[np.float64]:
    """The image (L, F) with frame ``centre`` at ``centre + shift``, ends fixed, by interpolation of each band."""
    last = len(image) - 1
    source = np.interp(np.arange(last + 1), [0, centre + shift, last], [0, centre, last])
    return np.stack([np.interp(source, np.arange(last + 1), band) for band in image.T], axis=1)


def naive_hidden_share(length: int, max_width: int, number: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Hidden bands or frames of MANY examples."""
    hidden = []
    for _ in range(MANY):
        row = np.zeros(length, bool)
        for _ in range(number):
            width = random.integers(0, max_width + 1)
            start = random.integers(0, length - width + 1)
            row[start : start + width] = True
        hidden.append(row.sum())
    return np.array(hidden)


# ---- warp ------------------------------------------------------------------------------------------------------------


def test_warp_time__is_the_formula() -> None:
    features = torch.randn(40, 30, 5, generator=generator(), dtype=torch.float64)
    centre, shift = SpecAugment(time_warp=8).draw_warp(40, 30, generator(1))
    warped = warp_time(features, centre.double(), shift.double())
    for clip in range(40):
        expected = naive_warp(features[clip].numpy(), float(centre[clip]), float(shift[clip]))
        np.testing.assert_allclose(warped[clip], expected, atol=1e-12)


@pytest.mark.parametrize(("num_frames", "time_warp"), [(96, 8), (19, 8), (5, 1), (1000, 80)])
def test_warp_map__rises_and_keeps_the_ends(num_frames: int, time_warp: int) -> None:
    centre, shift = SpecAugment(time_warp=time_warp).draw_warp(MANY, num_frames, generator())
    source = warp_map(centre, shift, num_frames)
    assert (source[:, 0] == 0).all()
    assert (source[:, -1] == num_frames - 1).all()
    assert (source.diff(dim=1) > 0).all()
    moved = centre + shift
    assert moved.min() > 0
    assert moved.max() < num_frames - 1


def test_warp_map__moves_the_centre() -> None:
    centre, shift = torch.tensor([40.0, 40.0, 60.0]), torch.tensor([8.0, -8.0, 3.0])
    source = warp_map(centre, shift, 96)
    assert source[torch.arange(3), (centre + shift).long()].tolist() == [40.0, 40.0, 60.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_warp_time__by_nothing_changes_nothing(dtype: torch.dtype) -> None:
    features = torch.randn(6, 96, 4, generator=generator()).to(dtype)
    centre = torch.tensor([9.0, 10.0, 33.0, 47.0, 61.0, 86.0])
    assert torch.equal(warp_time(features, centre, torch.zeros(6)), features)


def test_draw_warp__centres_and_distances_are_uniform() -> None:
    centre, shift = SpecAugment(time_warp=8).draw_warp(MANY, 96, generator())
    counts = centre.long().bincount()
    assert (centre == centre.round()).all()
    assert counts.nonzero().flatten().tolist() == list(range(9, 87))
    assert (counts[9:] / MANY).numpy() == pytest.approx(1 / 78, abs=0.004)
    assert shift.abs().max() <= 8
    histogram = torch.histc(shift, bins=16, min=-8, max=8)
    assert (histogram / MANY).numpy() == pytest.approx(1 / 16, abs=0.007)


def test_warp_time__has_the_gradients_of_the_formula() -> None:
    features = torch.randn(2, 9, 2, generator=generator(), dtype=torch.float64, requires_grad=True)
    centre, shift = torch.tensor([3.0, 5.0]).double(), torch.tensor([1.5, -1.0]).double()
    assert torch.autograd.gradcheck(lambda x: warp_time(x, centre, shift), features)


# ---- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "max_width"), [(1, 10), (2, 10), (3, 4)])
def test_masks__hide_as_many_as_the_naive_version(number: int, max_width: int) -> None:
    augment = SpecAugment(number, max_width, number, max_width, time_warp=0)
    features = torch.ones(MANY, 24, 32)
    features[:, ::2, ::2] = 2.0  # so that no value is the mean
    hidden = augment(features, generator()) != features
    found = {32: hidden.all(dim=1).sum(dim=1), 24: hidden.all(dim=2).sum(dim=1)}
    random = np.random.default_rng(0)
    for length, counts in found.items():
        expected = naive_hidden_share(length, max_width, number, random)
        most = number * max_width + 1
        np.testing.assert_allclose(
            np.bincount(counts, minlength=most) / MANY, np.bincount(expected, minlength=most) / MANY, atol=0.02
        )
        assert float(counts.float().mean()) == pytest.approx(expected.mean(), rel=0.02)


def test_masks__are_whole_bands_and_frames_with_the_mean_of_their_example() -> None:
    features = torch.randn(64, 96, 64, generator=generator()) + torch.arange(64.0)[:, None, None]
    masked = SpecAugment(time_warp=0)(features, generator(1))
    hidden = masked != features
    bands, frames = hidden.all(dim=1), hidden.all(dim=2)
    assert torch.equal(hidden, bands[:, None, :] | frames[:, :, None])
    assert bands.sum(dim=1).max() > 10  # two masks
    mean = features.mean(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(masked[hidden], mean.expand_as(masked)[hidden])
    # Shifted features are masked alike: nothing depends on where their zero is.
    torch.testing.assert_close(SpecAugment(time_warp=0)(features + 5, generator(1)), masked + 5)


def test_masks__reach_both_edges() -> None:
    features = torch.randn(5000, 20, 12, generator=generator())
    hidden = SpecAugment(1, 10, 1, 10, time_warp=0)(features, generator(1)) != features
    frames, bands = hidden.all(dim=2), hidden.all(dim=1)
    for edge in (frames[:, 0], frames[:, -1], bands[:, 0], bands[:, -1]):
        assert edge.any()


# ---- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "off",
    [
        {"num_frequency_masks": 0, "num_time_masks": 0, "time_warp": 0},
        {"frequency_mask_width": 0, "time_mask_width": 0, "time_warp": 0},
    ],
)
def test_spec_augment__everything_off_changes_nothing(off: dict[str, int]) -> None:
    features = torch.randn(3, 96, 64)
    assert torch.equal(SpecAugment(**off)(features, generator()), features)


def test_spec_augment__one_part_alone() -> None:
    features = torch.randn(32, 96, 64, generator=generator())
    only_bands = SpecAugment(num_time_masks=0, time_warp=0)(features, generator()) != features
    assert torch.equal(only_bands, only_bands.any(dim=1, keepdim=True).expand_as(only_bands))
    only_frames = SpecAugment(num_frequency_masks=0, time_warp=0)(features, generator()) != features
    assert torch.equal(only_frames, only_frames.any(dim=2, keepdim=True).expand_as(only_frames))
    warped = SpecAugment(**NO_MASKS)(features, generator())
    assert torch.equal(warped[:, [0, -1]], features[:, [0, -1]])
    assert (warped[:, 20:70] != features[:, 20:70]).any(dim=(1, 2)).all()


def test_spec_augment__every_example_is_augmented_for_itself() -> None:
    features = torch.randn(1, 96, 64, generator=generator()).expand(64, -1, -1)
    before = features.clone()
    augmented = SpecAugment()(features, generator())
    assert torch.equal(features, before)
    assert len(augmented.flatten(1).unique(dim=0)) == 64


def test_spec_augment__draws_depend_on_the_generator_alone() -> None:
    features = torch.randn(8, 96, 64)
    source = generator(3)
    first, second = (SpecAugment()(features, source) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(first, SpecAugment()(features, generator(3)))
    assert not torch.equal(first, second)


def test_spec_augment__never_waits_for_the_device() -> None:
    """A fake tensor has no values, and asking for one raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert SpecAugment()(torch.empty(4, 96, 64), generator()).shape == (4, 96, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_warp": -1}, r"time_warp must be at least 0, got -1\."),
        ({"num_time_masks": -2}, r"num_time_masks must be at least 0, got -2\."),
        ({"frequency_mask_width": -3}, r"frequency_mask_width must be at least 0, got -3\."),
    ],
)
def test_spec_augment__refuses_values_out_of_range(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecAugment(**arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 18, 64), "A time_warp of 8 needs clips of at least 19 frames, got 18. Use longer crops or a smaller"),
        ((2, 96, 9), "frequency_mask_width must be at most the 9 mel bins of the features, got 10."),
    ],
)
def test_spec_augment__refuses_features_that_are_too_small(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpecAugment()(torch.zeros(shape), generator())
    SpecAugment(frequency_mask_width=9, time_warp=2)(torch.zeros(shape), generator())
    SpecAugment(num_frequency_masks=0, time_warp=2)(torch.zeros(shape), generator())
