"""Which clips are held out to choose by, and what is chosen."""

import math

import pytest
import torch

from sslam.selection import best, edge, first_recordings, parts_of, random_order

NAN = float("nan")


def test_best__of_equal_ones_the_first_and_never_nan() -> None:
    assert best([{1e-3: 0.5, 1e-2: 0.7, 1e-1: 0.7}]) == (0, 1e-2)
    assert best([{1e-3: NAN, 1e-2: 0.0}]) == (0, 1e-2)
    assert best([{1e-3: 0.5, 1e-2: NAN}, {1e-3: 0.4, 1e-2: 0.6}, {1e-3: 0.6}]) == (1, 1e-2)
    assert best([{1e-3: NAN}, {1e-3: NAN}]) == (0, 1e-3)


@pytest.mark.parametrize(
    ("scores", "rate", "expected"),
    [
        ({1e-3: 0.5, 1e-2: 0.7, 1e-1: 0.6}, 1e-2, None),
        ({1e-3: 0.5, 1e-2: 0.7, 1e-1: 0.8}, 1e-1, "highest"),
        ({1e-1: 0.6, 1e-2: 0.7, 1e-3: 0.8}, 1e-3, "lowest"),
        ({1e-3: 0.8, 1e-2: 0.8, 1e-1: 0.6}, 1e-3, None),
        ({1e-3: 0.5, 1e-2: NAN, 1e-1: 0.6}, 1e-1, "highest"),
        ({1e-3: NAN, 1e-2: NAN}, 1e-3, None),
        ({1e-3: 0.5}, 1e-3, None),
        ({}, 1e-3, None),
    ],
)
def test_edge__is_where_a_rate_further_out_may_be_better(
    scores: dict[float, float], rate: float, expected: str | None
) -> None:
    assert edge(scores, rate) == expected
    assert not any(math.isnan(score) for place, score in scores.items() if place == rate and expected)


@pytest.mark.parametrize("sizes", [[1] * 23, [2] * 12, [1, 3, 1, 7, 2, 2, 1, 5, 1], [9, 1, 1], [4, 4]])
def test_parts__keep_excerpts_of_a_recording_on_one_side(sizes: list[int]) -> None:
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = random_order(len(group))
    part = parts_of(5, order, group)
    assert {*part.tolist()} == {*range(min(5, len(sizes)))}
    assert all(len(part[group[order] == number].unique()) == 1 for number in range(len(sizes)))
    counts = part.bincount()
    assert counts.max() - counts.min() <= max(sizes)
    if max(sizes) == 1:
        assert torch.equal(part, parts_of(5, order, None))
    for least in range(1, len(group)):
        held_out, others = first_recordings(least, order, group)
        assert not set(group[held_out].tolist()) & set(group[others].tolist())
        assert sorted([*held_out.tolist(), *others.tolist()]) == [*range(len(group))]
        assert least <= len(held_out) < least + max(sizes)


def test_edge__looks_at_the_rate_next_to_it() -> None:
    scores = {1.0: 0.9, 2.0: 0.9, 3.0: 0.1, 4.0: 0.5}
    assert edge(scores, 1.0) is None  # as good a rate lies further inside
    assert edge(scores, 4.0) == "highest"
    assert edge({1.0: 0.9, 2.0: 0.1, 3.0: 0.9, 4.0: 0.5}, 1.0) == "lowest"
