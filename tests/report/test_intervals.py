"""Intervals: they hold the truth as often as they say, whatever makes numbers differ, and say where there are none."""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from sslam.report.intervals import FoldSamples, Interval, Scale, interval_of, weights_of_resamples
from sslam.report.weighted_metrics import metrics_of_weighted_clips

Array = NDArray[np.float64]
NUM_SETS = 1000
Random = np.random.Generator


@cache
def weights(clips: int, copies: int, seed: int) -> NDArray[np.float32]:
    """The same for all sets, which saves most of the time."""
    return weights_of_resamples(np.arange(clips) // copies, seed)


def samples(value_HN: Array, copies: int = 1, seed: int = 0) -> FoldSamples:
    """Of the mean of what is known of each clip, of which as many as there are copies are of one recording."""
    clips = value_HN.shape[1]
    weight_NB = weights(clips, copies, seed)
    return FoldSamples(value_HN @ weight_NB / weight_NB.sum(axis=0), clips // copies, clips)


def coverage(intervals: Iterator[Interval], truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def accuracies(
    random: Random,
    folds: int = 1,
    heads: int = 1,
    clips: int = 80,
    of_fold: float = 0,
    of_head: float = 0,
    copies: int = 1,
) -> list[FoldSamples]:
    """Clips are found where difficulty, fold, head and chance add up to a positive number; copies share difficulty."""
    found = []
    for fold in range(folds):
        difficulty_N = random.normal(size=clips // copies).repeat(copies) + 0.3 * random.normal(size=clips)
        skill_H1 = of_head * random.normal(size=(heads, 1)) + of_fold * random.normal()
        noise_HN = 0.3 * random.normal(size=(heads, clips))
        found.append(samples((1.1 + difficulty_N + skill_H1 + noise_HN > 0).astype(float), copies, fold))
    return found


def expected_accuracy(of_fold: float = 0, of_head: float = 0, **sizes: int) -> float:
    """The normal distribution's at 1.1 over the standard deviation of the sum."""
    deviation = math.sqrt(1 + 2 * 0.3**2 + of_fold**2 + of_head**2)
    return 0.5 * (1 + math.erf(1.1 / deviation / math.sqrt(2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        {"clips": 50},
        {"clips": 100},
        {"clips": 99, "copies": 3},
        {"clips": 400, "heads": 3, "of_head": 0.05},
        {"folds": 5},
        {"folds": 5, "heads": 3, "of_head": 0.1},
        {"folds": 5, "of_fold": 0.3},
        {"folds": 5, "copies": 4},
    ],
    ids=str,
)
def test_interval_of__accuracies_are_held_by_95_of_100(sizes: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    intervals = (interval_of(accuracies(random, **sizes), "share") for _ in range(NUM_SETS))
    assert 0.93 <= coverage(intervals, expected_accuracy(**sizes)) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("clips", "first", "second"), [(50, 0.8, 0.7), (100, 0.9, 0.85), (100, 0.6, 0.1)])
def test_interval_of__differences_of_accuracies_are_held_by_95_of_100(clips: int, first: float, second: float) -> None:
    random = np.random.default_rng(0)

    def difference() -> Interval:
        hard_2N = random.random((2, clips))
        hard_2N[1] = np.where(random.random(clips) < 0.5, hard_2N[0], hard_2N[1])
        ours, theirs = (
            samples((hard_N < share)[None].astype(float))
            for hard_N, share in zip(hard_2N, (first, second), strict=True)
        )
        return interval_of([ours.minus(theirs)], "difference of accuracies")

    assert 0.93 <= coverage((difference() for _ in range(NUM_SETS)), first - second) <= 0.97


def score_set(
    random: Random, clips: int = 100, classes: int = 5
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """Scores of two systems, of different skill, which find the same clips hard."""
    labels_NC = np.eye(classes, dtype=bool)[random.integers(classes, size=clips)]
    hard_NC = random.normal(size=(clips, classes))
    scores = [skill * labels_NC + 0.7 * (hard_NC + random.normal(size=hard_NC.shape)) for skill in (2.0, 1.5)]
    return [scores_NC.astype(np.float32) for scores_NC in scores], labels_NC


@pytest.mark.slow
def test_interval_of__map_d_prime_and_lwlrap_are_held_by_95_of_100() -> None:
    random = np.random.default_rng(0)
    as_it_is = np.ones((100, 1), np.float32)

    def numbers(weight_NB: NDArray[np.float32]) -> dict[str, Array]:
        """Of the first system, and its difference to the second (2, B)."""
        scores, labels_NC = score_set(random)
        ours, theirs = (metrics_of_weighted_clips(scores_NC, labels_NC, weight_NB, True) for scores_NC in scores)
        return {name: np.stack([ours[name], ours[name] - theirs[name]]) for name in ("map", "d_prime", "lwlrap")}

    drawn = [numbers(as_it_is) for _ in range(3000)]
    hits: dict[tuple[str, bool], list[bool]] = {}
    truth = {name: np.mean([found[name] for found in drawn], axis=0)[:, 0] for name in drawn[0]}
    for number in range(2 * NUM_SETS):  # six shares at once, so each must be told more sharply
        for name, both_2B in numbers(weights(100, 1, number % 20)).items():
            for is_difference, (value_B, expected) in enumerate(zip(both_2B, truth[name], strict=True)):
                scale: Scale = "plain" if is_difference or name == "d_prime" else "share"
                interval = interval_of([FoldSamples(value_B[None], 100, 100)], scale)
                hits.setdefault((name, bool(is_difference)), []).append(interval.low <= expected <= interval.high)
    shares = {what: float(np.mean(held)) for what, held in hits.items()}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares
    assert len(shares) == 6


def of(*values: float, groups: int = 10, heads: int = 1) -> FoldSamples:
    """Samples of which the first value is the number."""
    return FoldSamples(np.tile(values, (heads, 1)), groups, groups)


@pytest.mark.parametrize(
    ("folds", "reason"),
    [
        ([of(math.nan, 0.5, 0.6)], "the number is not finite"),
        ([of(math.inf, 0.5, 0.6)], "the number is not finite"),
        ([of(0.5, 0.5, 0.5, groups=1)], "there is nothing to resample (1 recording or clip)"),
        ([of(0.5, 0.5, 0.6), of(0.5, 0.5, 0.6, groups=1)], "there is nothing to resample (1 recording or clip)"),
        ([of(0.5, math.nan, math.nan, 0.4)], "too few clips: many resamples have no number"),
    ],
)
def test_interval_of__where_there_is_none_it_says_why(folds: list[FoldSamples], reason: str) -> None:
    interval = interval_of(folds, "share")
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.reason == reason
    assert not interval.excludes_zero


def test_interval_of__a_single_resample_without_a_number_does_no_harm() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, size=101)
    values[0], values[7] = 0.5, math.nan
    interval = interval_of([of(*values)], "plain")
    assert interval.high - interval.low == pytest.approx(
        2 * 2.262 * np.nanstd(values[1:], ddof=1) * (10 / 9) ** 0.5, rel=1e-3
    )


def test_interval_of__all_or_no_clips_right() -> None:
    low, high, _ = interval_of([samples(np.ones((1, 100)))], "share")
    assert 0.9 < low < 0.97  # that of the "rule of three"
    assert high == 1
    assert interval_of([samples(np.zeros((1, 100)))], "share")[:2] == (0, pytest.approx(1 - low))


def test_interval_of__shares_stay_within_0_and_1() -> None:
    interval = interval_of([samples(np.array([[1.0] * 9 + [0.0]]))], "share")
    assert 0 < interval.low < 0.9 < interval.high < 1


def test_interval_of__equal_systems_are_undecided_and_opposite_ones_are_not() -> None:
    right_HN = (np.random.default_rng(0).random((3, 50)) < 0.7).astype(float)
    ours = samples(right_HN)
    assert not interval_of([ours.minus(ours)], "difference of accuracies").excludes_zero
    assert interval_of([ours.minus(ours)], "plain") == Interval(0, 0)
    always, never = samples(np.ones((1, 50))), samples(np.zeros((1, 50)))
    low, high, _ = interval_of([always.minus(never)], "difference of accuracies")
    assert 0.8 < low < high


def test_interval_of__differences_are_paired() -> None:
    right_N = np.random.default_rng(0).random((1, 100)) < 0.5
    better_N = right_N | (np.arange(100) < 15)
    ours, theirs = samples(better_N.astype(float)), samples(right_N.astype(float))
    assert interval_of([ours.minus(theirs)], "difference of accuracies").excludes_zero
    assert interval_of([ours], "share").low < interval_of([theirs], "share").high  # though their own intervals overlap


def test_minus__other_numbers_of_heads_add_their_variances() -> None:
    random = np.random.default_rng(0)
    skill_H1 = np.array([[0.1], [0.5], [0.9]])
    many, one = samples((random.random((3, 400)) < skill_H1).astype(float)), samples(np.ones((1, 400)))
    alone, difference = interval_of([many], "plain"), interval_of([many.minus(one)], "plain")
    assert difference.high - difference.low == pytest.approx(alone.high - alone.low)
    assert difference.high - difference.low > 1  # three heads that differ so much say little


def test_weights_of_resamples__clips_of_a_recording_are_drawn_together() -> None:
    group_N = np.array([7, 3, 7, 5, 3, 7])
    weight_NB = weights_of_resamples(group_N, 0)
    assert weight_NB[:, 0].tolist() == [1] * 6
    for group in (3, 5, 7):
        assert len(np.unique(weight_NB[group_N == group], axis=0)) == 1
    assert (weight_NB[[1, 3, 0]].sum(axis=0) == 3).all()
    assert (weight_NB == weights_of_resamples(group_N, 0)).all()
    assert (weight_NB != weights_of_resamples(group_N, 1)).any()
