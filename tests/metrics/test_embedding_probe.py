"""Folds that keep recordings apart, and scores of embeddings whose answer is known."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from sslam.metrics.embedding_probe import PENALTIES, best_penalty, grouped_folds, probe_embeddings


def labelled(num_clips: int = 60, num_classes: int = 3) -> np.ndarray:
    return np.eye(num_classes, dtype=np.float32)[np.arange(num_clips) % num_classes]


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def test_grouped_folds__every_clip_is_tested_once_and_no_recording_is_on_both_sides() -> None:
    labels_NC, groups_N = labelled(60), np.arange(60) // 3
    splits = grouped_folds(labels_NC, groups_N, 4, seed=0)
    assert sorted(np.concatenate([tested for _, tested in splits])) == list(range(60))
    for learnt, tested in splits:
        assert not set(groups_N[learnt]) & set(groups_N[tested])
        assert labels_NC[tested].sum(axis=0).min() >= 4


def test_probe_embeddings__clips_of_one_recording_do_not_give_their_label_away() -> None:
    """Embeddings that tell the recording and nothing of its class are worth nothing."""
    recordings = noise(30, 40)
    labels_NC = np.repeat(labelled(30), 2, axis=0)
    embedding_NW = np.repeat(recordings, 2, axis=0) + 0.01 * noise(60, 40, seed=1)

    def scores(groups_N: np.ndarray) -> dict[str, float]:
        return probe_embeddings(embedding_NW, labels_NC, groups_N, grouped_folds(labels_NC, groups_N, 4, 0), True)

    apart, together = scores(np.arange(60) // 2), scores(np.arange(60))
    assert apart["knn_accuracy"] < 0.6
    assert apart["probe_accuracy"] < 0.6
    assert together["probe_accuracy"] > 0.8


def test_probe_embeddings__labels_that_are_there_are_found() -> None:
    labels_NC = labelled()
    splits = grouped_folds(labels_NC, np.arange(60), 4, seed=0)
    scores = probe_embeddings(labels_NC @ noise(3, 20) + 0.1 * noise(60, 20), labels_NC, np.arange(60), splits, True)
    assert scores == {"knn_accuracy": 1.0, "probe_accuracy": 1.0}


def test_probe_embeddings__the_probe_is_a_ridge_regression_of_standardised_embeddings() -> None:
    labels_NC = labelled()
    embedding_NW = 5 + labels_NC @ noise(3, 8) * np.arange(1, 9) + 8 * noise(60, 8, seed=2)
    splits = grouped_folds(labels_NC, np.arange(60), 4, seed=0)
    correct = 0
    for learnt, tested in splits:
        mean, std = embedding_NW[learnt].mean(0), embedding_NW[learnt].std(0)
        learnt_NW, tested_NW = ((embedding_NW[rows] - mean) / std for rows in (learnt, tested))

        def leave_one_out_error(penalty: float, x: np.ndarray = learnt_NW, y: np.ndarray = labels_NC[learnt]) -> float:
            errors = []
            for row in range(len(x)):
                others = np.arange(len(x)) != row
                errors.append((Ridge(penalty).fit(x[others], y[others]).predict(x[[row]]) - y[row]) ** 2)
            return float(np.mean(errors))

        model = Ridge(min(PENALTIES, key=leave_one_out_error)).fit(learnt_NW, labels_NC[learnt])
        correct += (model.predict(tested_NW).argmax(1) == labels_NC[tested].argmax(1)).sum()
    assert 30 < correct < 60  # neither trivial nor hopeless
    scores = probe_embeddings(embedding_NW, labels_NC, np.arange(60), splits, True)
    assert scores["probe_accuracy"] == pytest.approx(correct / 60)


def test_best_penalty__is_of_recordings_that_were_not_learnt_from() -> None:
    """Clips of one recording are nearly the same: whoever learns from one of them knows the other."""
    labels_NC, groups_N = np.repeat(labelled(30), 2, axis=0), np.arange(60) // 2
    x_NW = np.repeat(noise(30, 40) + labels_NC[::2] @ noise(3, 40, seed=2), 2, axis=0) + 0.01 * noise(60, 40, seed=1)
    x_NW = (x_NW - x_NW.mean(0)).astype(np.float64)

    def error(penalty: float, groups: np.ndarray) -> float:
        errors = []
        for group in np.unique(groups):
            rows = groups == group
            preds = Ridge(penalty).fit(x_NW[~rows], labels_NC[~rows]).predict(x_NW[rows])
            errors.append(np.square(preds - labels_NC[rows]).sum())
        return float(np.sum(errors))

    chosen = []
    for groups in (groups_N, np.arange(60)):
        chosen.append(best_penalty(x_NW, labels_NC, groups))
        assert chosen[-1] == min(PENALTIES, key=lambda penalty, groups=groups: error(penalty, groups))  # type: ignore[misc]
    assert chosen[0] > chosen[1]


def test_probe_embeddings__several_labels_give_average_precision_over_the_classes_that_have_clips() -> None:
    rng = np.random.default_rng(0)
    labels_NC = (rng.random((80, 4)) < 0.3).astype(np.float32)
    labels_NC[:, 3] = 0
    labels_NC[~labels_NC.any(axis=1), 0] = 1
    splits = grouped_folds(labels_NC, np.arange(80), 4, seed=0)
    found = probe_embeddings(labels_NC @ noise(4, 30) + 0.1 * noise(80, 30), labels_NC, np.arange(80), splits, False)
    nothing = probe_embeddings(noise(80, 30), labels_NC, np.arange(80), splits, False)
    assert found.keys() == {"knn_map", "probe_map"}
    assert found["probe_map"] > 0.95
    assert 0.2 < nothing["probe_map"] < 0.6


def test_grouped_folds__what_cannot_be_divided_is_refused() -> None:
    one_class = np.zeros((10, 3), np.float32)
    one_class[:, 1] = 1
    with pytest.raises(ValueError, match="needs two classes at least, and its 10 clips have 1. Give it other data"):
        grouped_folds(one_class, np.arange(10), 4, 0)
    with pytest.raises(ValueError, match="num_folds is 4, and the 9 clips of the probe make 3 folds at most: they are"):
        grouped_folds(labelled(9), np.arange(9), 4, 0)
    with pytest.raises(ValueError, match="make 2 folds at most: they are of 2 recordings"):
        grouped_folds(labelled(30), np.arange(30) % 2, 4, 0)
