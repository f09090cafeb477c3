"""Augmentation of labelled clips: what is drawn stays within its published bounds, and labels follow their clips."""

import numpy as np
import pytest
import torch
import torchaudio

from sslam.transforms import Augmentation, RandomSource
from sslam.transforms.augmentation import band_mask, roll_waveforms

NOTHING = {"roll": False, "noise": False, "mixup_alpha": 0.0, "mask_ratio": 0.0}


def source(seed: int = 0) -> RandomSource:
    return RandomSource.seeded(torch.device("cpu"), seed)


def test_roll_waveforms__turns_the_sound_and_leaves_the_padding() -> None:
    waveform = torch.zeros(3, 50)
    lengths = torch.tensor([50, 30, 1])
    for clip, length in enumerate(lengths.tolist()):
        waveform[clip, :length] = torch.arange(1, length + 1)
    gain = torch.tensor([1.0, 2.0, 3.0])
    rolled = roll_waveforms(waveform, lengths, torch.Generator().manual_seed(1), gain)
    for clip, length in enumerate(lengths.tolist()):
        assert (rolled[clip, length:] == 0).all()
        sound = (rolled[clip, :length] / gain[clip]).numpy()
        shift = int(np.argmin(sound))
        np.testing.assert_array_equal(np.roll(sound, -shift), np.arange(1, length + 1))
    assert rolled[0, 0] != 1  # it did turn


def test_roll__gain_is_the_published_one() -> None:
    augmentation = Augmentation(**NOTHING | {"roll": True})
    gains = augmentation.waveforms(torch.ones(20_000, 1), torch.ones(20_000, dtype=torch.int64), source())[:, 0]
    assert gains.min() > 0.5
    assert gains.max() < 1.5
    assert gains.mean().item() == pytest.approx(1.0, abs=0.005)
    assert gains.std().item() == pytest.approx((10 * 10 / (20**2 * 21)) ** 0.5, rel=0.02)  # of Beta(10, 10)


def test_band_mask__one_band_per_clip_of_every_allowed_width() -> None:
    mask = band_mask(20_000, 40, 8, torch.Generator().manual_seed(0))
    widths = mask.sum(dim=1)
    starts_and_ends = mask.int().diff(dim=1, prepend=torch.zeros(20_000, 1), append=torch.zeros(20_000, 1)).abs()
    assert (starts_and_ends.sum(dim=1)[widths > 0] == 2).all()
    counts = widths.bincount(minlength=8)
    assert len(counts) == 8
    assert (counts / 20_000).numpy() == pytest.approx(np.full(8, 1 / 8), abs=0.01)
    assert mask[:, 0].any()
    assert mask[:, -1].any()


@pytest.mark.parametrize(("length", "widest"), [(128, 25), (1024, 204)])
def test_features__masks_are_as_wide_as_those_of_torchaudio(length: int, widest: int) -> None:
    """The published code masks at most 25.6 bins and 204.8 frames, which gives widths of 0 to 25 and 0 to 204."""
    num_clips = 20_000
    torch.manual_seed(0)
    clips = torch.ones(num_clips, 1, length, 1)
    theirs = torchaudio.functional.mask_along_axis_iid(clips, 0.2 * length, 0.0, axis=2)[:, 0, :, 0] == 0
    ours = band_mask(num_clips, length, 0.2 * length, torch.Generator().manual_seed(1))
    assert ours.sum(dim=1).max() == theirs.sum(dim=1).max() == widest
    shares = [(mask.sum(dim=1) == widest).double().mean().item() for mask in (ours, theirs)]
    assert shares[0] == pytest.approx(shares[1], abs=0.005)
    features = torch.ones(4_000, length, 8) if length == 1024 else torch.ones(4_000, 8, length)
    masked, _ = Augmentation(**NOTHING | {"mask_ratio": 0.2}).features(features, torch.eye(2), source())
    hidden = (masked == 0).all(dim=2 if length == 1024 else 1)
    assert hidden.sum(dim=1).max() == widest


def test_features__masks_every_clip_alone_and_fills_with_zero() -> None:
    augmentation = Augmentation(**NOTHING | {"mask_ratio": 0.4})
    features = torch.ones(64, 100, 20)
    masked, labels = augmentation.features(features, torch.eye(64), source())
    hidden = masked == 0
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    whole_frames, whole_bins = hidden.all(dim=2).sum(dim=1), hidden.all(dim=1).sum(dim=1)
    assert whole_frames.max() < 40
    assert whole_bins.max() < 8
    assert len(whole_frames.unique()) > 5
    assert torch.equal(labels, torch.eye(64))


def test_features__mixed_labels_tell_the_share_of_the_clips() -> None:
    augmentation = Augmentation(**NOTHING | {"mixup_alpha": 0.8})
    features = torch.arange(4.0)[:, None, None].expand(4, 3, 2)
    num_mixed = 0
    for seed in range(200):
        mixed, labels = augmentation.features(features, torch.eye(4), source(seed))
        # Clip i has the value i, so labels and features must agree.
        torch.testing.assert_close(mixed[:, 0, 0], labels @ torch.arange(4.0))
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(4))
        assert torch.equal(labels[0] > 0, torch.tensor([True, False, False, True])) or torch.equal(labels, torch.eye(4))
        num_mixed += not torch.equal(labels, torch.eye(4))
    assert 165 < num_mixed < 195  # a probability of 0.9


def test_features__noise_is_bounded_and_moves_frames() -> None:
    augmentation = Augmentation(**NOTHING | {"noise": True})
    features = torch.arange(100.0)[None, :, None].expand(32, 100, 4)
    noisy, _ = augmentation.features(features, torch.eye(32), source())
    shifts = (noisy[:, 50, 0].floor() - 50).unique()
    assert shifts.min() >= -9
    assert shifts.max() <= 10
    assert len(shifts) > 5
    noise = noisy - noisy.floor()
    assert 0 < noise.max() < 0.1


def test_augmentation__draws_depend_on_the_key_alone() -> None:
    waveform, lengths = torch.randn(4, 1600), torch.full((4,), 1600)
    first, again, other = (Augmentation().waveforms(waveform, lengths, source(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixup_alpha": -1.0}, r"mixup_alpha must be at least 0, got -1\.0\."),
        ({"mask_ratio": 1.5}, r"mask_ratio must be between 0 and 1, got 1\.5\."),
        ({"mixup_probability": -0.1}, r"mixup_probability must be between 0 and 1, got -0\.1\."),
    ],
)
def test_augmentation__refuses_values_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**arguments)
