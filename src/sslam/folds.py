"""Clips in folds: stratified by class, with the clips of a group in one fold. Shape letters: N clips, C classes."""

from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


def rarest_classes(labels_NC: csr_array) -> NDArray[np.int64]:
    """For each clip the rarest of its classes, shape (N,), of equally rare ones the first; 0 for one that has none.

    Args:
        labels_NC: Sparse multi-hot labels.
    """
    clips_C = np.asarray(labels_NC.sum(axis=0))
    rows = zip(labels_NC.indptr[:-1], labels_NC.indptr[1:], strict=True)
    rarest = [min(labels_NC.indices[start:end], key=lambda column: clips_C[column], default=0) for start, end in rows]
    return np.array(rarest, np.int64)


def most_folds(class_N: NDArray[np.int64], groups_N: NDArray[np.int64]) -> int:
    """Folds that clips can make: no more than there are groups, or clips of any class."""
    return min(len(np.unique(groups_N)), int(np.bincount(class_N).max(initial=0)))


def divide(
    class_N: NDArray[np.int64], groups_N: NDArray[np.int64], num_folds: int, seed: int, option: str = "num_folds"
) -> NDArray[np.int64]:
    """Divide clips into folds with about equal shares of every class, and no group in two of them.

    These are the folds of scikit-learn's ``StratifiedGroupKFold``.

    Args:
        class_N: Class of each clip; of several the rarest, see :func:`rarest_classes`.
        groups_N: Number of each clip's group.
        num_folds: Number of folds, from 2 to :func:`most_folds`.
        seed: Seed of the order in which groups are given to folds.
        option: What ``num_folds`` is called in an error.

    Returns:
        Folds from 1 to ``num_folds``, shape (N,).

    Raises:
        ValueError: If a fold would be empty.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second

    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    folds_N = np.zeros(len(class_N), np.int64)
    with catch_warnings():
        simplefilter("ignore")  # of classes with fewer clips than folds, which it does not name
        for fold, (_, held_out) in enumerate(splitter.split(folds_N, class_N, groups_N), start=1):
            folds_N[held_out] = fold
    if empty := set(range(1, num_folds + 1)).difference(folds_N.tolist()):
        raise ValueError(
            f"num_folds is {num_folds}, and fold {min(empty)} would be empty: the {len(np.unique(groups_N))} "
            f"recordings or groups that stay together differ too much. Pass {option} {num_folds - 1} or less, or add "
            "recordings."
        )
    return folds_N
