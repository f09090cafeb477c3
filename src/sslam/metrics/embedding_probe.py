"""What labels can be read off embeddings: nearest neighbours and a linear probe, cross-validated.

Shape letters: N clips, C classes, W width of an embedding.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sslam.folds import divide, most_folds, rarest_classes

NUM_NEIGHBORS = 10
PENALTIES = tuple(10.0**exponent for exponent in range(-1, 7))

Split = tuple[NDArray[np.int64], NDArray[np.int64]]


def grouped_folds(
    labels_NC: NDArray[np.float32], groups_N: NDArray[np.int64], num_folds: int, seed: int
) -> list[Split]:
    """Clips to learn from and clips to test on, for each fold; classes have about equal shares in all.

    A clip with several classes counts for the rarest of them.

    Args:
        labels_NC: Multi-hot labels.
        groups_N: Number of the recording that each clip is of; no recording is on both sides.
        num_folds: Number of folds, >= 2.
        seed: Seed of the order in which groups are given to folds.

    Raises:
        ValueError: If fewer than two classes have clips, there are too few groups or clips of a class, or
            a fold would be empty.
    """
    clips_C = labels_NC.sum(axis=0)
    if (num_classes := np.count_nonzero(clips_C)) < 2:
        raise ValueError(
            f"A probe needs two classes at least, and its {len(labels_NC)} clips have {num_classes}. Give it other "
            "data, or more of its clips."
        )
    class_N = rarest_classes(csr_array(labels_NC))
    most = most_folds(class_N, groups_N)
    if most < num_folds:
        raise ValueError(
            f"num_folds is {num_folds}, and the {len(labels_NC)} clips of the probe make {most} folds at most: they "
            f"are of {len(np.unique(groups_N))} recordings, and no class has more than {most} of them. Give it more "
            "clips, or take fewer folds."
        )
    folds_N = divide(class_N, groups_N, num_folds, seed)
    return [(np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)) for fold in range(1, num_folds + 1)]


def probe_embeddings(
    embedding_NW: NDArray[np.float32],
    labels_NC: NDArray[np.float32],
    groups_N: NDArray[np.int64],
    splits: Sequence[Split],
    single_label: bool,
) -> dict[str, float]:
    """Score of labels that are predicted for each clip from the clips of the other folds.

    Embeddings are standardised over the clips that are learnt from. Neighbours are the 10 nearest by cosine, and vote
    with equal weights; the linear probe is a ridge regression of the labels, whose penalty errors choose that leave one
    recording out (:func:`best_penalty`).

    Args:
        embedding_NW: One vector per clip.
        labels_NC: Multi-hot labels.
        groups_N: Number of the recording that each clip is of.
        splits: Folds, see :func:`grouped_folds`; every clip is tested once.
        single_label: Whether every clip has exactly one class.

    Returns:
        ``knn_accuracy`` and ``probe_accuracy``, in [0, 1], of clips with one class each; ``knn_map`` and ``probe_map``
        of others, means of the average precision over the classes that have clips.
    """
    # Half a second, which only a run with such a probe waits for.
    from sklearn.linear_model import Ridge
    from sklearn.metrics import average_precision_score
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    num_neighbors = min(NUM_NEIGHBORS, *(len(learnt) for learnt, _ in splits))
    predicted = {name: np.zeros(labels_NC.shape) for name in ("knn", "probe")}
    for learnt, tested in splits:
        scaler = StandardScaler().fit(embedding_NW[learnt].astype(np.float64))
        learnt_NW, tested_NW = (scaler.transform(embedding_NW[rows].astype(np.float64)) for rows in (learnt, tested))
        penalty = best_penalty(learnt_NW, labels_NC[learnt], groups_N[learnt])
        for name, model in (("knn", KNeighborsRegressor(num_neighbors, metric="cosine")), ("probe", Ridge(penalty))):
            predicted[name][tested] = model.fit(learnt_NW, labels_NC[learnt]).predict(tested_NW)
    scores = {}
    for name, preds_NC in predicted.items():
        if single_label:
            scores[f"{name}_accuracy"] = float((preds_NC.argmax(axis=1) == labels_NC.argmax(axis=1)).mean())
        else:
            has_clips_C = labels_NC.any(axis=0)
            scores[f"{name}_map"] = float(average_precision_score(labels_NC[:, has_clips_C], preds_NC[:, has_clips_C]))
    return scores


def best_penalty(x_NW: NDArray[np.float64], y_NC: NDArray[np.float32], groups_N: NDArray[np.int64]) -> float:
    """The one of the penalties with which a ridge regression predicts clips best from those of other recordings.

    The squared errors of leaving each recording out in turn follow from one fit: where H maps the labels to their
    predictions, those of a recording's clips are ``(I - H_gg)^-1 (y - H y)_g``. Of equal penalties the first is taken.

    Args:
        x_NW: Embeddings whose columns have the mean 0.
        y_NC: Labels.
        groups_N: Number of the recording that each clip is of.
    """
    eigenvalues_N, vectors_NN = np.linalg.eigh(x_NW @ x_NW.T)
    eigenvalues_N = eigenvalues_N.clip(min=0)
    recordings = [np.flatnonzero(groups_N == group) for group in np.unique(groups_N)]
    centred_NC = y_NC.astype(np.float64) - y_NC.mean(axis=0, dtype=np.float64)

    def error(penalty: float) -> float:
        # I - H, with a mean that is not penalised.
        rest_NN = (vectors_NN * (penalty / (eigenvalues_N + penalty))) @ vectors_NN.T - 1 / len(x_NW)
        residual_NC = rest_NN @ centred_NC
        return sum(
            float(np.square(np.linalg.solve(rest_NN[np.ix_(rows, rows)], residual_NC[rows])).sum())
            for rows in recordings
        )

    return min(PENALTIES, key=error)
