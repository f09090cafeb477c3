"""95 % intervals of numbers and of differences between two systems, from a paired bootstrap over clips.

Clips are resampled by recording where their recordings are known, and within their fold: two systems get the same
draws, and so do the heads or seeds of each. Of the bootstrap its variance is used. Percentiles are shifted, as mAP
rises where clips come twice, and resampling a few folds or seeds makes intervals far too narrow (of five folds at most
88 % hold the truth). So an interval is the number ± a quantile of Student's t times its standard deviation, made of

* clips: the variance over the resamples, times G / (G - 1) for G recordings;
* heads or seeds: their variance on the same clips, less what the clips explain of it (the interaction);
* folds: where the variance of their means is 1.25 times what clips and heads explain, or there are fewer than five, it
  takes the place of the two if it makes a wider interval, with n - 1 degrees of freedom. (Of 5 and 10 folds that differ
  as much as one likes, 94 to 96 % of such intervals hold the truth; of 2 to 4 95 to 99 %.)

Shares are handled on the scale of their log odds, so that intervals stay within 0 and 1. Accuracies of few clips need
more: to a difference two clips are added of which one system finds one and the other system the other (Bonett & Price
2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data"), and where all
clips or none are right, half a clip of the other kind (Anscombe 1956, "On estimating binomial response relations").

Shape letters: N clips, G recordings or clips, U heads or seeds, B resamples after a column of the clips as they are.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t as student

NUM_RESAMPLES = 400
"""The standard deviation is needed only, and 400 resamples tell it within 4 %."""
CONFIDENCE = 0.95
MOST_UNDEFINED = 0.05  # share of resamples in which a number may be missing
FEW_FOLDS = 5
NOT_EXPLAINED = 1.25  # times the variance that clips and heads explain

Scale = Literal["share", "difference of accuracies", "plain"]


class Interval(NamedTuple):
    """Bounds of a number, both nan where there are none, with the reason."""

    low: float
    high: float
    reason: str = ""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def no_interval(reason: str) -> Interval:
    return Interval(math.nan, math.nan, reason)


class FoldSamples(NamedTuple):
    """A number of one fold by head or seed and resample, and how many clips and recordings were resampled.

    Of a difference between systems with other numbers of heads, ``other_variance`` is the variance over these, with
    ``other_free`` degrees of freedom.
    """

    value_UB: NDArray[np.float64]
    num_groups: int
    num_clips: int
    other_variance: float = 0.0
    other_free: int = 0

    def minus(self, other: Self) -> Self:
        """The difference to another system's number on the same draws, head by head where both have as many."""
        if len(self.value_UB) == len(other.value_UB):
            return self._replace(value_UB=self.value_UB - other.value_UB)
        mean_B, other_mean_B = self.value_UB.mean(axis=0), other.value_UB.mean(axis=0)
        return self._replace(
            value_UB=(mean_B - other_mean_B)[None],
            other_variance=_variance_over_heads(self) + _variance_over_heads(other),
            other_free=len(self.value_UB) + len(other.value_UB) - 2,
        )


def weights_of_resamples(group_N: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """How often each clip is drawn (N, B): 1 in the first column, as often as its recording in the others."""
    _, group_N = np.unique(group_N, return_inverse=True)
    num_groups = int(group_N.max()) + 1
    counts_BG = np.random.default_rng(seed).multinomial(
        num_groups, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES
    )
    return np.vstack([np.ones(num_groups, np.int64), counts_BG]).T[group_N].astype(np.float32)


def interval_of(folds: Sequence[FoldSamples], scale: Scale) -> Interval:
    """The interval of the mean over folds (one, where data has no folds) of the mean over heads or seeds.

    Args:
        folds: Samples of each fold.
        scale: `share` for numbers in [0, 1]; `difference of accuracies`, each a mean over the clips; or neither.
    """
    value = float(np.mean([fold.value_UB[:, 0].mean() for fold in folds]))
    if not all(np.isfinite(fold.value_UB[:, 0]).all() for fold in folds):
        return no_interval("the number is not finite")
    if (fewest := min(fold.num_groups for fold in folds)) < 2:
        return no_interval(f"there is nothing to resample ({fewest} recording or clip)")
    if any(np.isfinite(fold.value_UB).mean() < 1 - MOST_UNDEFINED for fold in folds):
        return no_interval("too few clips: many resamples have no number")
    half = _half_width(folds)
    num_clips = sum(fold.num_clips for fold in folds)
    if scale == "difference of accuracies":
        clips = num_clips + 2
        extra = student.ppf((1 + CONFIDENCE) / 2, clips - 1) * math.sqrt(2) / clips
        value, half = value * num_clips / clips, math.hypot(half * num_clips / clips, extra)
    if scale != "share":
        return Interval(value - half, value + half)
    if value in (0, 1):
        return _all_or_none(value, sum(fold.num_groups for fold in folds))
    low, high = expit(logit(value) + np.array([-1, 1]) * half / (value * (1 - value)))
    return Interval(float(low), float(high))


def _half_width(folds: Sequence[FoldSamples]) -> float:
    clips = sum(_variance_over_clips(fold) for fold in folds) / len(folds) ** 2
    heads = sum(_variance_over_heads(fold) for fold in folds) / len(folds) ** 2
    free_clips = sum(fold.num_groups - 1 for fold in folds)
    free_heads = sum(len(fold.value_UB) - 1 + fold.other_free for fold in folds)
    half = math.sqrt(_quantile(free_clips) ** 2 * clips + (_quantile(free_heads) ** 2 * heads if heads else 0))
    if len(folds) == 1:
        return half
    between = float(np.var([fold.value_UB[:, 0].mean() for fold in folds], ddof=1)) / len(folds)
    if between > NOT_EXPLAINED * (clips + heads) or len(folds) < FEW_FOLDS:
        half = max(half, _quantile(len(folds) - 1) * math.sqrt(between))
    return half


def _quantile(degrees_of_freedom: int) -> float:
    return float(student.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))


def _variance_over_clips(fold: FoldSamples) -> float:
    mean_B = fold.value_UB[:, 1:].mean(axis=0)
    return float(np.var(mean_B[np.isfinite(mean_B)], ddof=1)) * fold.num_groups / (fold.num_groups - 1)


def _variance_over_heads(fold: FoldSamples) -> float:
    """Of their mean: by how much heads differ that are told apart by all clips there could be."""
    value_UB = fold.value_UB[:, np.isfinite(fold.value_UB).all(axis=0)]
    if len(value_UB) == 1:
        return fold.other_variance
    interaction = np.var(value_UB[:, 1:] - value_UB[:, :1], axis=0, ddof=1).mean()
    return max(0.0, float(np.var(value_UB[:, 0], ddof=1) - interaction)) / len(value_UB)


def _all_or_none(value: float, num_groups: int) -> Interval:
    """The interval of a share of 0 or 1: from it to where it ends with half a clip of the other kind."""
    share = (num_groups + 0.5) / (num_groups + 1)
    deviation = 1 / math.sqrt((num_groups + 1) * share * (1 - share))
    low = float(expit(logit(share) - _quantile(num_groups - 1) * deviation))
    return Interval(low, 1.0) if value == 1 else Interval(0.0, 1 - low)
