"""Weighted metrics are those of the clips written out as often as they count."""

import math

import numpy as np
import pytest
import torch

from sslam.metrics import ClassificationMetrics
from sslam.report import weighted_metrics
from sslam.report.weighted_metrics import mean_of_weighted, metrics_of_weighted_clips, precisions_and_areas


@pytest.mark.parametrize("single_label", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_metrics_of_weighted_clips__brute_force(
    single_label: bool, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted_metrics, "ENTRIES_AT_ONCE", 200)  # several parts
    random = np.random.default_rng(0)
    clips, classes = 24, 5
    labels_NC = random.random((clips, classes)) < 0.3
    if single_label:
        labels_NC = np.eye(classes, dtype=bool)[random.integers(classes - 1, size=clips)]  # the last one has no clip
    scores_NC = (random.normal(size=labels_NC.shape) + labels_NC).astype(np.float32)
    scores_NC = scores_NC.round(0 if ties else 6)
    weight_NB = np.column_stack([np.ones(clips), random.multinomial(clips, np.full(clips, 1 / clips), size=20).T])
    found = metrics_of_weighted_clips(scores_NC, labels_NC, weight_NB.astype(np.float32), single_label)
    for column, weight_N in enumerate(weight_NB.astype(int).T):
        rows = np.arange(clips).repeat(weight_N)
        metrics = ClassificationMetrics(classes, single_label)
        metrics.update(torch.from_numpy(scores_NC[rows]), torch.from_numpy(labels_NC[rows]), torch.arange(len(rows)))
        expected = metrics.compute().scalars()
        assert {name: value_B[column] for name, value_B in found.items()} == pytest.approx(
            expected, abs=1e-5, nan_ok=True
        )


def test_precisions_and_areas__undefined_classes_are_nan() -> None:
    labels_NC = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]], dtype=bool)
    scores_NC = np.arange(9, dtype=np.float32).reshape(3, 3)
    weight_NB = np.array([[1, 0], [1, 2], [1, 1]], dtype=np.float32)
    precision_CB, auc_CB = precisions_and_areas(scores_NC, labels_NC, weight_NB)
    np.testing.assert_allclose(precision_CB, [[1 / 3, math.nan], [math.nan, math.nan], [1, 1]], rtol=1e-6)
    np.testing.assert_allclose(auc_CB, [[0, math.nan], [math.nan, math.nan], [math.nan, math.nan]])


def test_metrics_of_weighted_clips__without_any_label_there_is_none() -> None:
    found = metrics_of_weighted_clips(
        np.zeros((2, 3), np.float32), np.zeros((2, 3), bool), np.ones((2, 4), np.float32), False
    )
    assert all(np.isnan(value_B).all() for value_B in found.values())
    assert set(found) == {"map", "d_prime", "lwlrap"}


def test_mean_of_weighted__no_weight_is_nan() -> None:
    weight_NB = np.array([[1, 3, 0], [1, 1, 0]], dtype=np.float32)
    np.testing.assert_allclose(mean_of_weighted(np.array([1, 0]), weight_NB), [0.5, 0.75, math.nan])
