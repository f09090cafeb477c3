"""Losses of classifiers against plain numpy versions."""

import numpy as np
import pytest
import torch

from sslam.losses import CrossEntropy, LabelNormalisedBCE

LOGITS = np.random.default_rng(0).normal(scale=3, size=(5, 4))


def test_label_normalised_bce__is_the_sum_over_the_number_of_labels() -> None:
    labels = np.random.default_rng(1).uniform(size=(5, 4))
    probability = 1 / (1 + np.exp(-LOGITS))
    total = -(labels * np.log(probability) + (1 - labels) * np.log(1 - probability)).sum()
    loss = LabelNormalisedBCE()(torch.from_numpy(LOGITS), torch.from_numpy(labels))
    assert loss.item() == pytest.approx(total / labels.sum(), rel=1e-5)
    assert loss.dtype == torch.float32


def test_label_normalised_bce__a_batch_without_labels_is_finite() -> None:
    loss = LabelNormalisedBCE()(torch.from_numpy(LOGITS), torch.zeros(5, 4))
    assert loss.item() == pytest.approx(np.log1p(np.exp(LOGITS)).sum(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy__with_smoothed_labels(smoothing: float) -> None:
    labels = np.eye(4)[[0, 3, 1, 2, 2]]
    smoothed = labels * (1 - smoothing) + smoothing / 4
    log_probability = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    loss = CrossEntropy(smoothing)(torch.from_numpy(LOGITS), torch.from_numpy(labels))
    assert loss.item() == pytest.approx(-(smoothed * log_probability).sum(axis=1).mean(), rel=1e-5)
    np.testing.assert_allclose(CrossEntropy().log_probabilities(torch.from_numpy(LOGITS)), log_probability, rtol=1e-5)


def test_log_probabilities__sure_classes_stay_apart() -> None:
    scores = LabelNormalisedBCE().log_probabilities(torch.tensor([20.0, 30.0, 40.0]))
    assert (scores.diff() > 0).all()


def test_cross_entropy__refuses_a_share_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be at least 0 and less than 1, got 1\.0\."):
        CrossEntropy(1.0)
