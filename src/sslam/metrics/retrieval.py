"""Query-by-example retrieval: whether clips of one class lie closer to each other than to the other clips.

Shape letters: B clips of a batch, N all clips, D width, C classes, P examples of a class, Q clips without it, T target
trials.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslam.checks import at_least
from sslam.devices import widest_float
from sslam.metrics.clips import ClipMetric

# Similarities are compared in steps of 2^-24, the resolution of float32 just below 1. Steps make equal what only the
# order of summation makes different, so that ties are ties whatever the order of the clips.
STEPS = 2**24
TRIALS_AT_ONCE = 2**22


class RetrievalScores(NamedTuple):
    """Average precision (C,) of every class, float64, nan for a class left out, and its numbers of trials (C,)."""

    average_precision_C: Tensor
    num_targets_C: Tensor
    num_non_targets_C: Tensor

    @property
    def mean_average_precision(self) -> float:
        """Mean over the classes that have an average precision; nan if none has."""
        return self.average_precision_C.nanmean().item()

    @property
    def chance(self) -> float:
        """Mean share of target trials in the same classes: about what random embeddings reach."""
        share_C = self.num_targets_C / (self.num_targets_C + self.num_non_targets_C)
        return share_C[~self.average_precision_C.isnan()].mean().item()


def query_by_example_map(
    embeddings_ND: Tensor, labels_NC: Tensor, examples_NC: Tensor | None = None
) -> RetrievalScores:
    """Average precision of ranking target over non-target trials of each class (Fonseca et al. 2021, sec. 4.1).

    "Given a small subset of AudioSet with around 100 examples per class, cosine distance is computed between all the
    within-class target pairs, and all (present, not-present) pairs as non-target trials. Then, we sort the resulting
    distances in ascending order and compute per-class average precision (AP) of ranking target over non-target trials.
    Averaging per-class AP leads to the reported QbE mAP."

    So all pairs of a class are ranked together, not those of each query. What the text leaves open:

    * A target trial is a pair of two different clips; each pair counts once.
    * A clip with several labels is an example of each; two clips that share a class are a target trial of that class.
    * Not present is what a clip's labels do not name.
    * Trials of equal distance share their place, as in scikit-learn's ``average_precision_score``.
    * A class with fewer than two examples, or without any clip that lacks it, has no ranking and is left out.
    * An embedding of zeros has no direction; its cosine similarity to all clips is taken as 0.

    Args:
        embeddings_ND: Shape (N, D), of any length.
        labels_NC: 1 or True for the classes of a clip, shape (N, C).
        examples_NC: Clips that stand for a class in its trials, all of them having it; all that have it if None.
            Other clips with the class are in none of its trials.

    Returns:
        Scores on the CPU. At once in memory are the target trials of one class, P (P - 1) / 2, and at most some
        million others.

    Raises:
        ValueError: If the shapes do not fit, embeddings are not finite, or an example is not labelled with its class.
    """
    has_class_NC = labels_NC.to(embeddings_ND.device) == 1
    examples_NC = has_class_NC if examples_NC is None else examples_NC.to(embeddings_ND.device)
    if embeddings_ND.ndim != 2 or has_class_NC.ndim != 2 or len(embeddings_ND) != len(has_class_NC):
        raise ValueError(
            "Embeddings (N, D) and labels (N, C) must be of the same clips, got shapes "
            f"{tuple(embeddings_ND.shape)} and {tuple(labels_NC.shape)}."
        )
    if examples_NC.shape != has_class_NC.shape or (examples_NC & ~has_class_NC).any():
        raise ValueError(
            "Examples must be among the clips that are labelled with their class: give a mask of shape "
            f"{tuple(labels_NC.shape)} that is False where the label is 0, got shape {tuple(examples_NC.shape)}."
        )
    if not (finite_N := embeddings_ND.isfinite().all(dim=1)).all():
        raise ValueError(
            f"The embeddings of {(~finite_N).sum()} of {len(finite_N)} clips are not finite. Embed in fp32 "
            "(precision 32-true); if that does not help, the weights have diverged."
        )
    directions_ND = embeddings_ND.detach().to(widest_float(embeddings_ND.device))
    norm_N1 = directions_ND.norm(dim=1, keepdim=True)
    directions_ND = directions_ND / norm_N1.where(norm_N1 > 0, 1.0)
    scores = [
        _average_precision(directions_ND, examples_N.nonzero().squeeze(1), (~has_class_N).nonzero().squeeze(1))
        for examples_N, has_class_N in zip(examples_NC.T, has_class_NC.T, strict=True)
    ]
    num_examples_C, num_without_C = examples_NC.sum(dim=0).cpu(), (~has_class_NC).sum(dim=0).cpu()
    return RetrievalScores(
        average_precision_C=torch.tensor(scores, dtype=torch.float64),
        num_targets_C=num_examples_C * (num_examples_C - 1) // 2,
        num_non_targets_C=num_examples_C * num_without_C,
    )


def _average_precision(directions_ND: Tensor, examples_P: Tensor, without_Q: Tensor) -> float:
    """Average precision of a class, from unit vectors and the rows of its examples and of the clips without it."""
    if len(examples_P) < 2 or not len(without_Q):
        return math.nan
    examples_PD = directions_ND[examples_P]
    places_P = torch.arange(len(examples_P), device=examples_P.device)
    chunks = places_P.split(max(1, TRIALS_AT_ONCE // len(directions_ND)))
    # Each pair once, from the example that comes first.
    target_T = _sorted_steps([_steps(examples_PD[rows], examples_PD)[places_P > rows[:, None]] for rows in chunks])
    num_targets_T = len(target_T) - np.searchsorted(target_T, target_T)
    num_non_targets_T = np.zeros_like(num_targets_T)
    for rows in chunks:
        non_target_T = _sorted_steps([_steps(examples_PD[rows], directions_ND)[:, without_Q].flatten()])
        num_non_targets_T += len(non_target_T) - np.searchsorted(non_target_T, target_T)
    return float((num_targets_T / (num_targets_T + num_non_targets_T)).mean())


def _steps(first_RD: Tensor, second_ND: Tensor) -> Tensor:
    """Cosine similarities (R, N) of unit vectors in whole steps, int32."""
    return (first_RD @ second_ND.T).mul_(STEPS).round_().int()


def _sorted_steps(parts: list[Tensor]) -> NDArray[np.int32]:
    """All values, ascending. NumPy sorts integers several times faster than torch."""
    return np.sort(torch.cat(parts).cpu().numpy())


class RetrievalResults(NamedTuple):
    """Query-by-example retrieval in one set of clips.

    Attributes:
        num_clips: Clips that were embedded.
        num_compared_clips: Those in the trials; the others are an example of no class.
        num_zero_embeddings: Clips compared whose embedding is zeros: similar to none.
        num_classes: C.
        num_classes_with_trials: Classes in the mean: those with two examples and a clip that lacks them.
        mean_average_precision: QbE mAP, in [0, 1]; nan where no class has trials.
        chance: Mean share of target trials in these classes: about what random embeddings reach.
        average_precision_C: Average precision of every class, nan for those left out.
        num_examples_C: Examples of every class.
        num_targets_C: Target trials, pairs of examples.
        num_non_targets_C: Non-target trials, pairs of an example and a clip without the class.
    """

    num_clips: int
    num_compared_clips: int
    num_zero_embeddings: int
    num_classes: int
    num_classes_with_trials: int
    mean_average_precision: float
    chance: float
    average_precision_C: NDArray[np.float64]
    num_examples_C: NDArray[np.int64]
    num_targets_C: NDArray[np.int64]
    num_non_targets_C: NDArray[np.int64]

    def scalars(self) -> dict[str, float]:
        """For logging: ``qbe_map``."""
        return {"qbe_map": self.mean_average_precision}


class RetrievalMetrics(ClipMetric):
    """Collects the embeddings of all clips and computes :func:`query_by_example_map` once.

    Of every class, the first ``examples_per_class`` clips in one random order of all clips are its examples; the clips
    that are an example of any class make up the set that is compared. So a class that is everywhere (speech, music)
    has no more trials than the others, and the same clips are drawn at every evaluation.

    Args:
        num_classes: Number of classes C.
        width: Embedding size D.
        examples_per_class: Number of examples of a class. Published: "around 100". None for all.
        seed: Seed of the random order.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there is no class, no width, or fewer than two examples.
    """

    embeddings: list[Tensor]

    def __init__(
        self, num_classes: int, width: int, examples_per_class: int | None = 100, seed: int = 0, **kwargs: Any
    ) -> None:
        at_least(1, num_classes=num_classes, width=width)
        at_least(2, examples_per_class=examples_per_class)
        super().__init__("embeddings", width, num_classes, **kwargs)
        self.examples_per_class = examples_per_class
        self.seed = seed

    def compute(self) -> RetrievalResults:
        """Retrieval among the clips of all processes.

        Raises:
            ValueError: If there is no clip or one was embedded twice.
        """
        embeddings_ND, labels_NC, index_N = self.collected().values()
        examples_NC = draw_examples(labels_NC, self.examples_per_class, self.seed)
        compared_N = examples_NC.any(dim=1)
        scores = query_by_example_map(embeddings_ND[compared_N], labels_NC[compared_N], examples_NC[compared_N])
        return RetrievalResults(
            num_clips=len(index_N),
            num_compared_clips=int(compared_N.sum()),
            num_zero_embeddings=int((embeddings_ND[compared_N] == 0).all(dim=1).sum()),
            num_classes=self.num_classes,
            num_classes_with_trials=int((~scores.average_precision_C.isnan()).sum()),
            mean_average_precision=scores.mean_average_precision,
            chance=scores.chance,
            average_precision_C=scores.average_precision_C.numpy(),
            num_examples_C=examples_NC.sum(dim=0).numpy(),
            num_targets_C=scores.num_targets_C.numpy(),
            num_non_targets_C=scores.num_non_targets_C.numpy(),
        )


def draw_examples(labels_NC: Tensor, examples_per_class: int | None, seed: int) -> Tensor:
    """True for the examples of each class (N, C): the first clips with it in a random order of all clips."""
    if examples_per_class is None:
        return labels_NC
    order_N = torch.randperm(len(labels_NC), generator=torch.Generator().manual_seed(seed))
    ordered_NC = labels_NC[order_N]
    examples_NC = torch.zeros_like(labels_NC)
    examples_NC[order_N] = ordered_NC & (ordered_NC.cumsum(dim=0) <= examples_per_class)
    return examples_NC
