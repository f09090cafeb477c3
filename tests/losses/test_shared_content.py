"""Views told by what they share, against the formula pair by pair."""

import math

import pytest
import torch
from torch import Tensor

from sslam.losses import shared_content_loss


def naive_loss(views: Tensor, content: Tensor, temperature: float) -> Tensor:
    unit = [view / view.norm() for view in views]
    terms = []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        total = sum(torch.exp(unit[i] @ unit[j] / temperature) for j in others)
        in_common = [content[i] @ content[j] for j in others]
        if sum(in_common) == 0:
            continue
        found = [torch.log(torch.exp(unit[i] @ unit[j] / temperature) / total) for j in others]
        terms.append(-sum(c * f for c, f in zip(in_common, found, strict=True)) / sum(in_common))
    return torch.stack(terms).mean()


SINGLE = torch.eye(3, dtype=torch.float64)[[0, 1, 0, 2, 1]]
MIXED = torch.tensor([[1, 0, 0], [0.7, 0.3, 0], [0, 0.5, 0.5], [0, 0, 1]], dtype=torch.float64)


@pytest.mark.parametrize("content", [SINGLE, MIXED])
def test_shared_content_loss__is_the_formula(content: Tensor) -> None:
    views = torch.randn(len(content), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, naive = views.clone().requires_grad_(), views.clone().requires_grad_()
    loss, expected = shared_content_loss(ours, content, 0.2), naive_loss(naive, content, 0.2)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, naive.grad, rtol=1e-6, atol=1e-12)


def test_shared_content_loss__of_views_that_are_alike_is_the_logarithm_of_their_number() -> None:
    loss = shared_content_loss(torch.ones(6, 4), torch.eye(3).repeat(2, 1))
    assert loss.item() == pytest.approx(math.log(5), rel=1e-6)


def test_shared_content_loss__is_finite_with_half_precision_and_zeros() -> None:
    views = torch.zeros(4, 8, dtype=torch.bfloat16, requires_grad=True)
    loss = shared_content_loss(views, torch.eye(2).repeat(2, 1))
    assert loss.dtype == torch.float32
    loss.backward()
    assert views.grad is not None
    assert views.grad.isfinite().all()


def test_shared_content_loss__says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(views, clips\), got \(3, 4\) and \(2, 2\)"):
        shared_content_loss(torch.randn(3, 4), torch.eye(2))
    with pytest.raises(ValueError, match="None of 3 views has a clip in common with another"):
        shared_content_loss(torch.randn(3, 4), torch.eye(3))
