"""How well scores find the classes of clips: mAP, d', lwlrap, accuracy, and mAP by degree of polyphony.

Shape letters: B clips of a batch, N all clips, C classes, S classes with support.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multilabel_auroc,
    multilabel_average_precision,
)

from sslam.checks import at_least
from sslam.metrics.clips import ClipMetric

UNKNOWN = -1  # polyphony of a clip without onsets
# Numbers of distinct events in a clip that are taken together (SSLAM, table 3), and what lies beside them.
DISTINCT_EVENTS = ((1, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, None))


class PolyphonyRow(NamedTuple):
    """Clips in which as many events sound at once, ``polyphony``, and the mAP among these clips.

    ``chance`` is the mAP that random scores reach on average. It differs between degrees, because clips in which more
    sounds at once have more labels: compare models at one degree rather than degrees.
    """

    polyphony: int
    num_clips: int
    num_classes: int
    mean_average_precision: float
    chance: float


class DistinctEventsRow(NamedTuple):
    """Clips with ``fewest`` to ``most`` classes, however they overlap, and the mAP among these clips.

    ``most`` is None where there is no end; for ``chance`` see :class:`PolyphonyRow`.
    """

    fewest: int
    most: int | None
    num_clips: int
    num_classes: int
    mean_average_precision: float
    chance: float


class ClassificationResults(NamedTuple):
    """Metrics of one evaluation, and all scores in the order of the clips' index.

    Shares lie in [0, 1]. What is not defined is nan: the mAP of clips without labels, d' where no class has clips
    that have it and clips that do not, ``average_precision_C`` and ``auc_C`` of such classes. ``accuracy`` and
    ``confusion_CC`` (rows: true class, columns: class found, in clips) are None where a clip may have several labels.
    ``polyphony_N`` is None and ``by_polyphony`` empty where onsets are not known; ``by_distinct_events`` is empty where
    every clip has one label.
    """

    num_clips: int
    num_classes: int
    num_classes_with_support: int
    mean_average_precision: float
    d_prime: float
    lwlrap: float
    accuracy: float | None
    average_precision_C: NDArray[np.float64]
    auc_C: NDArray[np.float64]
    support_C: NDArray[np.int64]
    by_polyphony: tuple[PolyphonyRow, ...]
    by_distinct_events: tuple[DistinctEventsRow, ...]
    confusion_CC: NDArray[np.int64] | None
    scores_NC: NDArray[np.float32]
    labels_NC: NDArray[np.bool_]
    index_N: NDArray[np.int64]
    polyphony_N: NDArray[np.int64] | None

    def scalars(self) -> dict[str, float]:
        """For logging: ``map``, ``d_prime``, ``lwlrap``, and ``accuracy`` where there is one."""
        scalars = {"map": self.mean_average_precision, "d_prime": self.d_prime, "lwlrap": self.lwlrap}
        return scalars if self.accuracy is None else scalars | {"accuracy": self.accuracy}


class ClassificationMetrics(ClipMetric):
    """Collects the scores of all clips and computes once from all of them.

    * mAP: mean of the average precision over the classes that have clips (AudioSet's convention).
    * d': sqrt(2) times the inverse normal distribution of the mean AUC, over classes with positives and negatives.
    * lwlrap: label-weighted label-ranking average precision (DCASE 2019, task 2).
    * accuracy: share of clips whose highest score is their class's; of equal scores the first counts.

    Args:
        num_classes: Number of classes C, at least 2.
        single_label: Whether every clip has exactly one class.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there are fewer than two classes.
    """

    scores: list[Tensor]
    polyphony: list[Tensor]

    def __init__(self, num_classes: int, single_label: bool, **kwargs: Any) -> None:
        at_least(2, num_classes=num_classes)
        super().__init__("scores", num_classes, num_classes, **kwargs)
        self.single_label = single_label
        self.add_column("polyphony", torch.zeros(0, dtype=torch.int64))

    def update(self, scores_BC: Tensor, labels_BC: Tensor, index_B: Tensor, polyphony_B: Tensor | None = None) -> None:
        """Add a batch, as in :meth:`ClipMetric.update`.

        Args:
            scores_BC: The higher, the surer: logits or probabilities, of which only the order counts. mAP and d'
                compare the clips of a class; so for one label per clip probabilities say more than logits.
            labels_BC: 1 for the classes of a clip, 0 for the others.
            index_B: What tells a clip from all others.
            polyphony_B: Largest number of events that sound at once, where it is known.

        Raises:
            ValueError: Also if a clip of single-label data does not have one label.
        """
        super().update(scores_BC, labels_BC, index_B)
        num_labels_B = self.labels[-1].sum(dim=1)
        if self.single_label and not (has_one_B := num_labels_B == 1).all():
            raise ValueError(
                f"Clip {index_B.cpu()[~has_one_B][0]} has {num_labels_B[~has_one_B][0]} labels, and in single-label "
                "data a clip has one. Correct the labels, or evaluate as multi-label data."
            )
        self.polyphony.append(torch.full((len(index_B),), UNKNOWN) if polyphony_B is None else polyphony_B.cpu())

    def compute(self) -> ClassificationResults:
        """Metrics over the clips of all processes.

        Raises:
            ValueError: If there is no clip, one was scored twice, or polyphony is known of a part of them only.
        """
        scores_NC, labels_NC, index_N, polyphony_N = self.collected().values()
        has_polyphony = bool((polyphony_N != UNKNOWN).all())
        if not has_polyphony and (polyphony_N != UNKNOWN).any():
            raise ValueError(
                f"Clip {index_N[polyphony_N == UNKNOWN][0]} has no polyphony and others have. Give it for all clips "
                "of a set or for none."
            )
        from scipy.special import ndtri  # takes a fifth of a second

        # Only the order of scores counts. As ranks they are exact, where torchmetrics would put logits through a
        # sigmoid, which makes large ones equal.
        ranks_NC = dense_ranks(scores_NC)
        average_precision_C, auc_C = average_precisions(ranks_NC, labels_NC), areas_under_curve(ranks_NC, labels_NC)
        confusion_CC = None
        if self.single_label:
            found_N, true_N = scores_NC.argmax(dim=1), labels_NC.int().argmax(dim=1)
            confusion_CC = multiclass_confusion_matrix(found_N, true_N, self.num_classes)
        support_C = labels_NC.sum(dim=0)
        return ClassificationResults(
            num_clips=len(scores_NC),
            num_classes=self.num_classes,
            num_classes_with_support=int((support_C > 0).sum()),
            mean_average_precision=average_precision_C.nanmean().item(),
            d_prime=math.sqrt(2) * float(ndtri(auc_C.nanmean().item())),
            lwlrap=label_weighted_lrap(scores_NC, labels_NC),
            accuracy=None if confusion_CC is None else (confusion_CC.trace() / len(scores_NC)).item(),
            average_precision_C=average_precision_C.numpy(),
            auc_C=auc_C.numpy(),
            support_C=support_C.numpy(),
            by_polyphony=rows_by_polyphony(ranks_NC, labels_NC, polyphony_N) if has_polyphony else (),
            by_distinct_events=() if self.single_label else rows_by_distinct_events(ranks_NC, labels_NC),
            confusion_CC=None if confusion_CC is None else confusion_CC.numpy(),
            scores_NC=scores_NC.numpy(),
            labels_NC=labels_NC.numpy(),
            index_N=index_N.numpy(),
            polyphony_N=polyphony_N.numpy() if has_polyphony else None,
        )


def dense_ranks(scores_NC: Tensor) -> Tensor:
    """Ranks of each class's scores, float64 in [0, 1): equal scores have equal ranks, as only they have."""
    sorted_CN, order_CN = scores_NC.T.contiguous().sort(dim=1)
    steps_CN = F.pad(sorted_CN.diff(dim=1) != 0, (1, 0)).cumsum(dim=1)
    ranks_CN = torch.empty_like(steps_CN).scatter_(1, order_CN, steps_CN)
    return ranks_CN.T.double() / len(scores_NC)


def average_precisions(ranks_NC: Tensor, labels_NC: Tensor) -> Tensor:
    """Average precision (C,) in float64; nan for classes without positives, of which torchmetrics would make 0."""
    return _where_defined(labels_NC.any(dim=0), multilabel_average_precision, ranks_NC, labels_NC)


def areas_under_curve(ranks_NC: Tensor, labels_NC: Tensor) -> Tensor:
    """Area under the ROC curve (C,) in float64; nan for classes without positives or without negatives."""
    return _where_defined(labels_NC.any(dim=0) & ~labels_NC.all(dim=0), multilabel_auroc, ranks_NC, labels_NC)


def _where_defined(defined_C: Tensor, metric: Callable[..., Tensor], ranks_NC: Tensor, labels_NC: Tensor) -> Tensor:
    value_C = torch.full(defined_C.shape, math.nan, dtype=torch.float64)
    if defined_C.any():
        ranks_NS, labels_NS = ranks_NC[:, defined_C], labels_NC[:, defined_C].int()
        value_C[defined_C] = metric(ranks_NS, labels_NS, ranks_NS.shape[1], average=None, validate_args=False).double()
    return value_C


def label_weighted_lrap(scores_NC: Tensor, labels_NC: Tensor) -> float:
    """Mean over all labels of all clips: the share of true classes among those ranked at least as high; nan without.

    Of equal scores each counts as ranked above the others, as in scikit-learn.
    """

    # Only true classes are looked up, K = the most that a clip has.
    most_labels = max(1, int(labels_NC.sum(dim=1).max()))
    true_NK = scores_NC.where(labels_NC, -math.inf).topk(most_labels, dim=1)[0].contiguous()

    def num_at_least(values: Tensor) -> Tensor:
        """For each true class the number of values of its clip that are not lower."""
        return values.shape[1] - torch.searchsorted(values.sort(dim=1)[0], true_NK)

    precision_NK = num_at_least(true_NK).double() / num_at_least(scores_NC)
    return precision_NK[true_NK > -math.inf].mean().item()


def rows_by_polyphony(ranks_NC: Tensor, labels_NC: Tensor, polyphony_N: Tensor) -> tuple[PolyphonyRow, ...]:
    """One row per degree of polyphony, ascending; clips without events (degree 0) have no mAP and are counted only."""
    return tuple(
        PolyphonyRow(polyphony, *_among(polyphony_N == polyphony, ranks_NC, labels_NC))
        for polyphony in polyphony_N.unique().tolist()
    )


def rows_by_distinct_events(ranks_NC: Tensor, labels_NC: Tensor) -> tuple[DistinctEventsRow, ...]:
    """One row for each of :data:`DISTINCT_EVENTS` that has clips (SSLAM, table 3); clips without labels are in none."""
    number_N, rows = labels_NC.sum(dim=1), []
    for fewest, most in DISTINCT_EVENTS:
        inside_N = (number_N >= fewest) & (number_N <= (number_N if most is None else most))
        if inside_N.any():
            rows.append(DistinctEventsRow(fewest, most, *_among(inside_N, ranks_NC, labels_NC)))
    return tuple(rows)


def _among(inside_N: Tensor, ranks_NC: Tensor, labels_NC: Tensor) -> tuple[int, int, float, float]:
    """Of some of the clips: their number, their classes, the mAP among them, and that of random scores."""
    labels_MC = labels_NC[inside_N]
    average_precision_C = average_precisions(ranks_NC[inside_N], labels_MC)
    has_support_C = labels_MC.any(dim=0)
    chance = chance_average_precision(len(labels_MC), labels_MC.sum(dim=0)[has_support_C])
    return len(labels_MC), int(has_support_C.sum()), average_precision_C.nanmean().item(), chance


def chance_average_precision(num_clips: int, support_S: Tensor) -> float:
    """Mean over classes of the expected average precision of a random order of the clips; nan without classes.

    The k-th place holds a positive with probability p = S / N. If it does, its precision is expected to be 1 / k for
    itself and (S - 1) / (N - 1) for each of the k - 1 places above.
    """
    harmonic_mean = (1 / torch.arange(1, num_clips + 1, dtype=torch.float64)).mean()
    above_S = (support_S - 1) / max(1, num_clips - 1)
    return (harmonic_mean + above_S * (1 - harmonic_mean)).mean().item()
