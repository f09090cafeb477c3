"""Metrics of clips that count several times, as in a bootstrap: one matrix product for all resamples.

Shape letters: N clips, C classes, B columns of weights, L labels, S segments of a ranking.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri
from scipy.stats import rankdata

Array = NDArray[np.float64]
ENTRIES_AT_ONCE = 2**24  # sums of classes that are held at once


class Ranking(NamedTuple):
    """A class's clips in descending order of their scores, cut before and after each score that a positive has.

    Clips of one score are never divided, so that each segment is a step of the precision-recall curve.
    """

    order_N: NDArray[np.int64]
    starts_S: NDArray[np.int64]


def metrics_of_weighted_clips(
    scores_NC: NDArray[np.float32], labels_NC: NDArray[np.bool_], weight_NB: NDArray[np.float32], single_label: bool
) -> dict[str, Array]:
    """The metrics (B,) by their names in the records, each as if a clip were there as often as its weight says.

    They are those of :mod:`sslam.metrics.classification`: a class without positives of any weight is left out of mAP,
    and one without negatives also out of d'.

    Args:
        scores_NC: The higher, the surer.
        labels_NC: True for the classes of a clip.
        weight_NB: How often each clip counts, 0 or more.
        single_label: Whether every clip has exactly one class, so that there is an accuracy.
    """
    precision_CB, auc_CB = precisions_and_areas(scores_NC, labels_NC, weight_NB)
    metrics = {
        "map": mean_of_defined(precision_CB),
        "d_prime": np.sqrt(2) * ndtri(mean_of_defined(auc_CB)),
        "lwlrap": _lwlrap(scores_NC, labels_NC, weight_NB),
    }
    if single_label:
        is_right_N = scores_NC.argmax(axis=1) == labels_NC.argmax(axis=1)
        metrics["accuracy"] = mean_of_weighted(is_right_N, weight_NB)
    return metrics


def precisions_and_areas(
    scores_NC: NDArray[np.float32], labels_NC: NDArray[np.bool_], weight_NB: NDArray[np.float32]
) -> tuple[Array, Array]:
    """Average precision and area under the ROC curve of every class, both (C, B), nan where they are not defined."""
    num_classes, num_columns = labels_NC.shape[1], weight_NB.shape[1]
    precision_CB = np.full((num_classes, num_columns), np.nan)
    auc_CB = precision_CB.copy()
    for classes in _chunks(labels_NC.sum(axis=0), ENTRIES_AT_ONCE // num_columns):
        rankings = [_rank(scores_NC[:, number], labels_NC[:, number]) for number in classes]
        lengths = [len(ranking.starts_S) for ranking in rankings]
        order, starts = np.concatenate([ranking.order_N for ranking in rankings]), []
        for place, ranking in enumerate(rankings):
            starts.append(ranking.starts_S + place * len(labels_NC))
        rows = np.append(np.concatenate(starts), len(order))
        shape = len(rows) - 1, len(labels_NC)
        is_positive = np.concatenate(
            [labels_NC[ranking.order_N, c] for c, ranking in zip(classes, rankings, strict=True)]
        )
        all_clips = csr_array((np.ones(len(order), np.float32), order, rows), shape)
        rows_of_positives = np.append(0, is_positive.cumsum())[rows]
        ones = np.ones(int(is_positive.sum()), np.float32)
        positives = csr_array((ones, order[is_positive], rows_of_positives), shape)
        ends = np.cumsum(lengths)[:-1]
        sums = zip(np.split(all_clips @ weight_NB, ends), np.split(positives @ weight_NB, ends), strict=True)
        for number, (all_SB, positive_SB) in zip(classes, sums, strict=True):
            precision_CB[number], auc_CB[number] = _precision_and_area(all_SB, positive_SB)
    return precision_CB, auc_CB


def _chunks(support_C: NDArray[np.int64], most: int) -> Iterator[list[int]]:
    """Numbers of the classes with clips, in parts of which each has at most ``most`` segments, or one class."""
    chunk: list[int] = []
    size = 0
    for number in np.flatnonzero(support_C).tolist():
        segments = 2 * int(support_C[number]) + 1
        if chunk and size + segments > most:
            yield chunk
            chunk, size = [], 0
        chunk.append(number)
        size += segments
    if chunk:
        yield chunk


def _rank(scores_N: NDArray[np.float32], is_positive_N: NDArray[np.bool_]) -> Ranking:
    order_N = np.argsort(-scores_N, kind="stable")
    is_new_N = np.append(True, np.diff(scores_N[order_N]) != 0)
    of_score_N = np.cumsum(is_new_N) - 1
    has_positive_N = (np.bincount(of_score_N, is_positive_N[order_N]) > 0)[of_score_N]
    # Scores that no positive has need not be told apart.
    starts = is_new_N & (has_positive_N | np.append(True, has_positive_N[:-1]))
    return Ranking(order_N, np.flatnonzero(starts))


def _precision_and_area(all_SB: NDArray[np.float32], positive_SB: NDArray[np.float32]) -> tuple[Array, Array]:
    negative_SB = all_SB - positive_SB
    at_least_SB, found_SB = all_SB.cumsum(axis=0), positive_SB.cumsum(axis=0)
    above_SB = at_least_SB - found_SB - negative_SB / 2
    num_positive_B, num_negative_B = found_SB[-1], (at_least_SB - found_SB)[-1]
    precision_SB = found_SB / np.maximum(at_least_SB, 1e-30)
    precision_B = _share((positive_SB * precision_SB).sum(axis=0), num_positive_B)
    higher_B = (positive_SB * (num_negative_B - above_SB)).sum(axis=0, dtype=np.float64)
    return precision_B, _share(higher_B, num_positive_B.astype(np.float64) * num_negative_B)


def _lwlrap(scores_NC: NDArray[np.float32], labels_NC: NDArray[np.bool_], weight_NB: NDArray[np.float32]) -> Array:
    place_NC = rankdata(-scores_NC, method="max", axis=1)
    place_among_true_NC = rankdata(np.where(labels_NC, -scores_NC, np.inf), method="max", axis=1)
    precision_N = np.where(labels_NC, place_among_true_NC / place_NC, 0).sum(axis=1)
    return _share(precision_N @ weight_NB, labels_NC.sum(axis=1) @ weight_NB)


def mean_of_weighted(value_N: NDArray[np.generic], weight_NB: NDArray[np.float32]) -> Array:
    """Mean (B,) of what is known of each clip or class."""
    return _share(value_N.astype(np.float64) @ weight_NB, weight_NB.sum(axis=0))


def mean_of_defined(value_CB: Array) -> Array:
    """Mean over the classes that have a number in a column; nan where none has."""
    is_defined_CB = ~np.isnan(value_CB)
    return _share(np.where(is_defined_CB, value_CB, 0).sum(axis=0), is_defined_CB.sum(axis=0))


def _share(part: NDArray[np.floating], whole: NDArray[np.number]) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, np.divide(part, whole, dtype=np.float64), np.nan)
