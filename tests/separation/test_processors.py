"""Channels that are left out, and cascades, against doing it clip by clip."""

from pathlib import Path

import pytest
import torch

from sslam.separation import Cascade, Processors
from sslam.separation.processors import without_worst
from tests.methods.contrastive_method import write_separator

LENGTHS = torch.tensor([800, 800, 650, 800])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b")):
        write_separator(tmp_path / f"{name}.ckpt", seed, num_sources=4)
    return tmp_path


def clips() -> torch.Tensor:
    waveforms = 0.1 * torch.randn(4, 800, generator=torch.Generator().manual_seed(0))
    return waveforms * (torch.arange(800) < LENGTHS[:, None])


def test_without_worst__leaves_out_what_holds_least_of_the_mixture() -> None:
    mixture = clips()[:1]
    other = torch.randn(800, generator=torch.Generator().manual_seed(5))
    other = other - (other @ mixture[0]) / (mixture[0] @ mixture[0]) * mixture[0]  # loud, and not of the mixture
    channels = torch.stack([0.5 * mixture[0], 0.01 * mixture[0], -0.3 * mixture[0], other])[None]
    assert torch.equal(without_worst(channels, mixture, 1), channels[:, :3])
    assert torch.equal(without_worst(channels, mixture, 2), channels[:, [0, 2]])
    assert without_worst(channels, mixture, 0) is channels


def test_without_worst__is_energy_times_cosine_clip_by_clip() -> None:
    random = torch.Generator().manual_seed(1)
    mixtures = torch.randn(20, 100, generator=random, dtype=torch.float64)
    channels = torch.randn(20, 4, 100, generator=random, dtype=torch.float64)
    found = without_worst(channels, mixtures, 1)
    for mixture, of_clip, kept in zip(mixtures, channels, found, strict=True):
        scores = [c.norm() / mixture.norm() * torch.cosine_similarity(c, mixture, dim=0).abs() for c in of_clip]
        worst = int(torch.stack(scores).argmin())
        assert torch.equal(kept, torch.stack([c for number, c in enumerate(of_clip) if number != worst]))


def test_processors__without_the_worst_channel_have_one_less(folder: Path) -> None:
    waveforms, ways = clips(), torch.tensor([0, 1, 0, 1])
    all_four = Processors(["a.ckpt", "b.ckpt"], str(folder)).channels(waveforms, LENGTHS, ways)
    best = Processors(["a.ckpt", "b.ckpt"], str(folder), drop_worst=1)
    assert best.num_channels == 3
    assert torch.equal(best.channels(waveforms, LENGTHS, ways), without_worst(all_four, waveforms, 1))


def test_cascade__separates_the_channel_that_was_drawn(folder: Path) -> None:
    waveforms, ways = clips(), torch.tensor([0, 3, 2, 1])
    cascade = Cascade(["a.ckpt", "b.ckpt"], str(folder))
    assert (len(cascade), cascade.num_channels) == (4, 4)
    found = cascade.channels(waveforms, LENGTHS, ways)
    first, second = cascade.separators
    with torch.no_grad():
        for clip, length in enumerate(LENGTHS.tolist()):
            channel = first(waveforms[clip : clip + 1, :length])[:, ways[clip]]
            torch.testing.assert_close(found[clip : clip + 1, :, :length], second(channel))
            assert not found[clip, :, length:].any()


def test_processors__bad_numbers_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="drop_worst is 4, and the separators make 4 channels"):
        Processors(["a.ckpt"], str(folder), drop_worst=4)
    with pytest.raises(ValueError, match="A cascade has two processors, got 1 files"):
        Cascade(["a.ckpt"], str(folder))
