"""Partial mixtures against a loop over frames, and the range of the windows."""

import pytest
import torch

from sslam.transforms import FullMixing, PartialMixing, partner_of


def test_partial_mixing__matches_a_loop_over_frames() -> None:
    features = torch.randn(3, 64 * 16, 4)
    mixing = PartialMixing()
    mixing.draw_windows = lambda *_: (3, 30, 15)  # type: ignore[method-assign]
    mixture = mixing(features, 16, torch.Generator())
    for clip in range(3):
        for frame in range(0, 1024, 7):
            alone = 48 <= frame < 48 + 240 or 480 <= frame < 480 + 240
            expected = features[clip, frame]
            if not alone:
                expected = torch.maximum(expected, features[clip - 1, frame])
            assert torch.equal(mixture.features[clip, frame], expected)
            assert (frame // 16 in mixture.mixed_columns.tolist()) != alone
    assert mixture.mixed_columns.tolist() == sorted(mixture.mixed_columns.tolist())


@pytest.mark.parametrize("summed", [None, torch.randn(3, 4 * 16, 4, dtype=torch.float64)])
def test_full_mixing__matches_a_loop_over_frames(summed: torch.Tensor | None) -> None:
    """By the maximum of log-mels, or with the features of the summed waveforms, from beginning to end."""
    features = torch.randn(3, 4 * 16, 4, dtype=torch.float64, requires_grad=True)
    mixture = FullMixing()(features, 16, torch.Generator(), summed)
    for clip in range(3):
        for frame in range(64):
            both = torch.maximum(features[clip, frame], features[clip - 1, frame])
            assert torch.equal(mixture.features[clip, frame], both if summed is None else summed[clip, frame])
    assert mixture.mixed_columns.tolist() == [0, 1, 2, 3]
    if summed is None:  # every frame is heard in its own clip or in the next one, never in both
        mixture.features.sum().backward()
        assert features.grad is not None
        is_louder = features > features.roll(1, 0)
        assert features.grad.equal((is_louder.long() + (~is_louder).long().roll(-1, 0)).double())


def test_partial_mixing__windows_have_the_published_range() -> None:
    mixing, generator = PartialMixing(), torch.Generator().manual_seed(0)
    windows = [mixing.draw_windows(64, generator) for _ in range(4000)]
    assert {length for _, _, length in windows} == {15}
    assert {first * 16 for first, _, _ in windows} == set(range(0, 497, 16))
    assert all(first * 16 + 240 <= second * 16 <= 768 for first, second, _ in windows)
    assert {second * 16 for first, second, _ in windows if first == 31} == {736, 752, 768}


@pytest.mark.parametrize("columns", [5, 8, 32, 64, 333, 750])
def test_partial_mixing__any_length_has_two_separate_windows(columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        mixture = PartialMixing()(torch.zeros(2, columns * 16, 1), 16, generator)
        assert len(mixture.mixed_columns) == columns - 2 * int(columns * 240 / 1024)


def test_partial_mixing__the_input_is_left_alone() -> None:
    features = torch.randn(2, 128, 4)
    before = features.clone()
    PartialMixing()(features, 16, torch.Generator())
    assert torch.equal(features, before)


def test_partner_of__is_the_clip_before() -> None:
    assert partner_of(torch.arange(4)).tolist() == [3, 0, 1, 2]


def test_partial_mixing__bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="got a batch of 1. Use a batch_size of at least 2"):
        PartialMixing()(torch.zeros(1, 1024, 4), 16, torch.Generator())
    with pytest.raises(ValueError, match="A clip of 4 columns of patches is too short"):
        PartialMixing()(torch.zeros(2, 64, 4), 16, torch.Generator())
    with pytest.raises(ValueError, match="window_fraction must be between 0 and 0.25, both excluded, got 0.5"):
        PartialMixing(window_fraction=0.5)
