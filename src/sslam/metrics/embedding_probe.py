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
    embedding_NW: NDArray[np.float32], labels_NC: NDArray[np.float32], splits: Sequence[Split], single_label: bool
) -> dict[str, float]:
    """Score of labels that are predicted for each clip from the clips of the other folds.

    Embeddings are standardised over the clips that are learnt from. Neighbours are the 10 nearest by cosine, and vote
    with equal weights; the linear probe is a ridge regression of the labels, whose penalty leave-one-out errors choose.

    Args:
        embedding_NW: One vector per clip.
        labels_NC: Multi-hot labels.
        splits: Folds, see :func:`grouped_folds`; every clip is tested once.
        single_label: Whether every clip has exactly one class.

    Returns:
        ``knn_accuracy`` and ``probe_accuracy``, in [0, 1], of clips with one class each; ``knn_map`` and ``probe_map``
        of others, means of the average precision over the classes that have clips.
    """
    # Half a second, which only a run with such a probe waits for.
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    num_neighbors = min(NUM_NEIGHBORS, *(len(learnt) for learnt, _ in splits))
    models = {"knn": KNeighborsRegressor(num_neighbors, metric="cosine"), "probe": RidgeCV(PENALTIES)}
    scores = {}
    for name, model in models.items():
        pipeline = make_pipeline(StandardScaler(), model)
        preds_NC = cross_val_predict(pipeline, embedding_NW.astype(np.float64), labels_NC, cv=splits)
        if single_label:
            scores[f"{name}_accuracy"] = float((preds_NC.argmax(axis=1) == labels_NC.argmax(axis=1)).mean())
        else:
            has_clips_C = labels_NC.any(axis=0)
            scores[f"{name}_map"] = float(average_precision_score(labels_NC[:, has_clips_C], preds_NC[:, has_clips_C]))
    return scores
