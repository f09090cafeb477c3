"""What runs say of a claim: numbers, differences and a verdict.

A difference is one-sided: it must exceed a threshold, 0 for "better" or minus a margin for "no worse". It does where
its whole 95 % interval lies above the threshold, it does not where all of it lies below, and else it is undecided. Arms
are paired: by clips, which are resampled, and by the seed of pre-training, of which three are the fewest that say how
much seeds differ (:mod:`sslam.report.intervals`). Where neither arm beats random weights, it is undecided too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from sslam.claims.claim import Clause
from sslam.report.intervals import Interval, Scale, interval_of, no_interval
from sslam.report.results import Run
from sslam.report.samples import Resampled, SamplesError, samples_of_seeds
from sslam.report.tables import ACCURACY, METRICS

LEAST_SEEDS = 3
SHARES = {metric.key for metric in METRICS if metric.is_share}

Verdict = Literal["holds", "does not hold", "undecided at this scale"]


class Number(NamedTuple):
    """A number of an arm: its mean over the seeds, with its interval and those of each seed."""

    value: float
    interval: Interval
    by_seed: tuple[float, ...]


NO_NUMBER = Number(math.nan, no_interval("it was not evaluated"), ())


class Finding(NamedTuple):
    """What was found of a clause.

    Args:
        clause: The clause.
        numbers: Numbers of both arms, that which is said to be better first, by arm.
        difference: The first minus the second, nan where one is missing.
        interval: Its interval, or why there is none.
        num_clips: Clips that count.
        verdict: See the module.
        by_polyphony: mAP of each arm among the clips in which so many events sound at once, mean over the seeds.
    """

    clause: Clause
    numbers: dict[str, Number]
    difference: float
    interval: Interval
    num_clips: int
    verdict: Verdict
    by_polyphony: dict[str, dict[int, float]]


def verdict_of(interval: Interval, more_than: float) -> Verdict:
    """The verdict of an interval of a difference that is to exceed a threshold; without bounds it is undecided."""
    if interval.low > more_than:
        return "holds"
    return "does not hold" if interval.high < more_than else "undecided at this scale"


def verdict_of_all(findings: Sequence[Finding]) -> Verdict:
    """The verdict of a claim: one clause that does not hold refutes it, and all must hold for it to hold."""
    verdicts: set[Verdict] = {finding.verdict for finding in findings}
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if verdicts == {"holds"} else "undecided at this scale"


def judge(clause: Clause, runs: Mapping[str, Sequence[Run]], random: Number = NO_NUMBER) -> Finding:
    """Decide a clause.

    Args:
        clause: The clause.
        runs: Evaluations of each arm by the clause's recipe, one for each seed, in the same order of the seeds.
        random: The number of random weights on the same clips: where neither arm is above it nothing was learnt that
            could be compared, and the clause is undecided, whatever the difference.
    """
    found: dict[str, Resampled | str] = {}
    for arm in (clause.better, clause.than):
        try:
            found[arm] = _samples(clause, runs.get(arm, ()))
        except SamplesError as error:
            found[arm] = f"{arm}: {error}"
    numbers = {
        arm: NO_NUMBER if isinstance(samples, str) else _number(samples, clause, len(runs[arm]))
        for arm, samples in found.items()
    }
    ours, theirs = found[clause.better], found[clause.than]
    reason = next((samples for samples in (ours, theirs) if isinstance(samples, str)), "")
    if isinstance(ours, str) or isinstance(theirs, str):
        return Finding(clause, numbers, math.nan, no_interval(reason), 0, "undecided at this scale", {})
    difference = numbers[clause.better].value - numbers[clause.than].value
    fewest = min(len(runs[arm]) for arm in numbers)
    interval = (
        _paired_interval(ours, theirs, clause)
        if fewest >= LEAST_SEEDS
        else no_interval(f"{fewest} of at least {LEAST_SEEDS} seeds")
    )
    num_clips = ours.by_metric[clause.metric].num_clips
    verdict = verdict_of(interval, clause.more_than)
    if max(number.value for number in numbers.values()) <= random.value:
        verdict = "undecided at this scale"
    by_polyphony = {arm: _by_polyphony(runs[arm]) for arm in numbers}
    return Finding(clause, numbers, difference, interval, num_clips, verdict, by_polyphony)


def _by_polyphony(runs: Sequence[Run]) -> dict[int, float]:
    """Empty where onsets are not known."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for row in run.record.by_polyphony:
            values.setdefault(row.polyphony, []).append(row.mean_average_precision)
    return {polyphony: float(np.mean(numbers)) for polyphony, numbers in values.items()}


def _samples(clause: Clause, runs: Sequence[Run]) -> Resampled:
    if not runs:
        raise SamplesError("it was not evaluated")
    polyphony = None
    if clause.polyphony is not None:
        least, most = clause.polyphony
        polyphony = (int(least or 0), most)
    samples = samples_of_seeds(runs, polyphony)
    if clause.metric not in samples.by_metric:
        raise SamplesError(f"it has no {clause.metric}, only {', '.join(samples.by_metric)}")
    return samples


def number_of(clause: Clause, runs: Sequence[Run]) -> Number:
    """The number of runs that no clause compares, such as random weights, on the clips and by the metric of one."""
    try:
        return _number(_samples(clause, runs), clause, len(runs))
    except SamplesError as error:
        return NO_NUMBER._replace(interval=no_interval(str(error)))


def _number(samples: Resampled, clause: Clause, num_seeds: int) -> Number:
    value_UB = samples.by_metric[clause.metric].value_UB
    scale: Scale = "share" if clause.metric in SHARES else "plain"
    interval = interval_of([samples.by_metric[clause.metric]], scale)
    by_seed = value_UB[:, 0] if num_seeds > 1 else value_UB[:, :1].mean(axis=0)  # of one seed they are heads
    return Number(float(value_UB[:, 0].mean()), interval, tuple(by_seed.tolist()))


def _paired_interval(ours: Resampled, theirs: Resampled, clause: Clause) -> Interval:
    if ours.clips != theirs.clips:
        return no_interval("the arms were evaluated on different clips")
    samples, others = ours.by_metric[clause.metric], theirs.by_metric[clause.metric]
    if len(samples.value_UB) != len(others.value_UB):
        return no_interval("the arms have different seeds")
    scale: Scale = "difference of accuracies" if clause.metric == ACCURACY.key else "plain"
    return interval_of([samples.minus(others)], scale)
