"""What is compared with what, and where."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from sslam.transforms import (
    ChannelAgainstChannel,
    Comparison,
    MixtureAgainstAny,
    MixtureAgainstChannel,
    MixtureAgainstMixture,
    ViewDraws,
    crop_views,
    draw_views,
)

NUM_CLIPS = 6000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("comparison", "num_channels", "pairs"),
    [
        (MixtureAgainstMixture(), 0, {(0, 0)}),
        (MixtureAgainstChannel(), 2, {(0, 1), (0, 2)}),
        (MixtureAgainstChannel(), 4, {(0, 1), (0, 2), (0, 3), (0, 4)}),
        (MixtureAgainstAny(), 2, {(0, 0), (0, 1), (0, 2)}),
        (ChannelAgainstChannel(), 2, {(1, 2), (2, 1)}),
        (ChannelAgainstChannel(), 3, {(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Comparison) else str(value),
)
def test_comparison__all_its_pairs_are_equally_likely(
    comparison: Comparison, num_channels: int, pairs: set[tuple[int, int]]
) -> None:
    drawn = Counter(map(tuple, comparison(NUM_CLIPS, num_channels, generator()).tolist()))
    assert set(drawn) == pairs
    for number in drawn.values():
        assert number == pytest.approx(NUM_CLIPS / len(pairs), rel=0.15)


def draw(num_samples_B: Tensor, **changes: object) -> ViewDraws:
    arguments: dict[str, object] = {
        "comparison": MixtureAgainstChannel(),
        "crop_samples": 10,
        "num_pairs": 2,
        "num_processors": 3,
        "num_channels": 2,
        "temporal_proximity": True,
        "generator": generator(),
    }
    return draw_views(num_samples_B=num_samples_B, **(arguments | changes))  # type: ignore[arg-type]


def test_draw_views__places_cover_the_clip_and_no_more() -> None:
    num_samples_B = torch.full((NUM_CLIPS,), 14)
    num_samples_B[:3] = torch.tensor([4, 10, 11])
    draws = draw(num_samples_B)
    assert draws.start_BV.shape == draws.source_BV.shape == (NUM_CLIPS, 4)
    assert draws.start_BV[:2].eq(0).all()
    assert draws.start_BV[2].max() <= 1
    places = Counter(draws.start_BV[3:].flatten().tolist())
    assert set(places) == {0, 1, 2, 3, 4}
    assert min(places.values()) > 0.9 * 4 * NUM_CLIPS / 5


def test_draw_views__tasks_have_channels_and_places_of_their_own() -> None:
    draws = draw(torch.full((NUM_CLIPS,), 14))
    # Two of two channels, and five places, in four views: independent of each other.
    assert (draws.source_BV[:, 1] == draws.source_BV[:, 3]).float().mean() == pytest.approx(1 / 2, abs=0.03)
    for first, second in ((0, 1), (2, 3), (0, 2), (1, 3)):
        same = (draws.start_BV[:, first] == draws.start_BV[:, second]).float().mean()
        assert same == pytest.approx(1 / 5, abs=0.03)


def test_draw_views__one_processor_for_each_clip() -> None:
    drawn = Counter(draw(torch.full((NUM_CLIPS,), 14)).processor_B.tolist())
    assert set(drawn) == {0, 1, 2}
    assert min(drawn.values()) > 0.9 * NUM_CLIPS / 3
    assert not draw(torch.full((4,), 14), num_processors=0, comparison=MixtureAgainstMixture()).processor_B.any()


def test_draw_views__without_temporal_proximity_a_pair_has_one_place() -> None:
    start_BV = draw(torch.full((NUM_CLIPS,), 14), temporal_proximity=False).start_BV
    assert torch.equal(start_BV[:, 0], start_BV[:, 1])
    assert torch.equal(start_BV[:, 2], start_BV[:, 3])
    assert not torch.equal(start_BV[:, 0], start_BV[:, 2])


def test_draw_views__the_last_place_of_a_very_long_clip_stays_within_it() -> None:
    num_samples_B = torch.full((NUM_CLIPS,), 2**31)
    start_BV = draw(num_samples_B).start_BV
    assert start_BV.max() <= 2**31 - 10
    assert len(start_BV.flatten().unique()) > 3.9 * NUM_CLIPS  # not in float32's steps


def test_crop_views__are_what_a_loop_cuts_out() -> None:
    sources_BST = torch.randn(5, 3, 40, generator=generator())
    source_BV = torch.randint(3, (5, 4), generator=generator(1))
    start_BV = torch.randint(31, (5, 4), generator=generator(2))
    crops_BVC = crop_views(sources_BST, source_BV, start_BV, crop_samples=10)
    for clip in range(5):
        for view in range(4):
            start = int(start_BV[clip, view])
            expected = sources_BST[clip, source_BV[clip, view], start : start + 10]
            assert torch.equal(crops_BVC[clip, view], expected)


def test_crop_views__a_short_clip_is_filled_up_with_zeros() -> None:
    sources_BST = torch.ones(2, 2, 4)
    crops_BVC = crop_views(sources_BST, torch.tensor([[0, 1], [1, 0]]), torch.zeros(2, 2, dtype=torch.int64), 6)
    assert crops_BVC.tolist() == [[[1, 1, 1, 1, 0, 0]] * 2] * 2
