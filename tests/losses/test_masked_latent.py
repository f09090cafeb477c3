"""The losses against their formulas in plain loops."""

import numpy as np
import pytest
import torch

from sslam.losses import cls_loss, masked_latent_loss, source_retention_target


def test_masked_latent_loss__matches_the_formula() -> None:
    prediction, target = torch.randn(2, 3, 5, 8), torch.randn(2, 5, 8)
    masked = torch.rand(2, 3, 5) > 0.4
    total = 0.0
    for clip in range(2):
        for clone in range(3):
            for patch in range(5):
                if masked[clip, clone, patch]:
                    error = prediction[clip, clone, patch].double() - target[clip, patch].double()
                    total += float((error**2).sum() / np.sqrt(8))
    assert masked_latent_loss(prediction, target, masked).item() == pytest.approx(total, rel=1e-5)


def test_masked_latent_loss__visible_patches_and_the_target_receive_no_gradient() -> None:
    prediction, target = torch.randn(1, 1, 4, 8, requires_grad=True), torch.randn(1, 4, 8, requires_grad=True)
    masked = torch.tensor([[[True, False, True, False]]])
    masked_latent_loss(prediction, target, masked).backward()
    assert target.grad is None
    assert (prediction.grad[0, 0].abs().sum(-1) > 0).tolist() == masked[0, 0].tolist()


def test_masked_latent_loss__bf16_is_computed_in_float32() -> None:
    prediction = torch.randn(1, 2, 64, 8).bfloat16()
    target, masked = torch.randn(1, 64, 8), torch.ones(1, 2, 64, dtype=torch.bool)
    expected = masked_latent_loss(prediction.float(), target, masked)
    assert torch.equal(masked_latent_loss(prediction, target, masked), expected)


def test_masked_latent_loss__shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need a target \(2, 5, 8\) and a mask \(2, 3, 5\), got \(2, 4, 8\)"):
        masked_latent_loss(torch.zeros(2, 3, 5, 8), torch.zeros(2, 4, 8), torch.ones(2, 3, 5, dtype=torch.bool))


def test_cls_loss__matches_the_formula() -> None:
    cls, target = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    values = cls_loss(cls, target)
    assert values.shape == (2, 3)
    expected = ((cls[1, 2] - target[1].mean(0)) ** 2).sum() / 8**0.5
    assert values[1, 2].item() == pytest.approx(expected.item(), rel=1e-5)


def test_source_retention_target__own_where_alone_and_the_mean_where_mixed() -> None:
    own, partner = torch.randn(2, 6 * 2, 4), torch.randn(2, 3 * 2, 4)
    mixed = torch.tensor([0, 2, 5])
    target = source_retention_target(own, partner, mixed, num_rows=2)
    for column in range(6):
        for row in range(2):
            patch = column * 2 + row
            expected = own[:, patch]
            if column in mixed.tolist():
                expected = (own[:, patch] + partner[:, mixed.tolist().index(column) * 2 + row]) / 2
            torch.testing.assert_close(target[:, patch], expected)


def test_source_retention_target__the_own_latents_are_left_alone() -> None:
    own = torch.randn(1, 4, 4)
    before = own.clone()
    source_retention_target(own, torch.randn(1, 2, 4), torch.tensor([1]), num_rows=2)
    assert torch.equal(own, before)
