"""Coincidence prediction against equation (2) in plain numpy, at extreme logits, and its memory with the head."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sslam.losses import Coincidence, coincidence_loss
from sslam.networks import CoincidenceHead


def table(rows: int, columns: int | None = None, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(rows, columns or rows, generator=torch.Generator().manual_seed(0))


def equation_2(logits: Tensor) -> float:
    probability = 1 / (1 + np.exp(-logits.double().numpy()))
    n = len(probability)
    positive = sum(np.log(probability[i, i]) for i in range(n))
    negative = sum(np.log(1 - probability[i, j]) for i in range(n) for j in range(n) if j != i)
    return float(-positive / n - negative / (n * (n - 1)))


@pytest.mark.parametrize("clips", [2, 3, 7])
def test_coincidence_loss__is_equation_2(clips: int) -> None:
    loss = coincidence_loss(table(clips))
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert loss.item() == pytest.approx(equation_2(table(clips)), rel=1e-5)


def test_coincidence_loss__both_classes_weigh_the_same() -> None:
    assert coincidence_loss(torch.zeros(9, 9)).item() == pytest.approx(2 * math.log(2))
    always, never = torch.full((9, 9), 3.0), torch.full((9, 9), -3.0)
    assert coincidence_loss(always).item() == pytest.approx(coincidence_loss(never).item())


def test_coincidence_loss__rows_of_the_table_have_the_whole_as_their_mean() -> None:
    """As processes share it: each has two rows, whose own columns are further right."""
    parts = [coincidence_loss(table(6)[rows : rows + 2], first_column=rows).item() for rows in (0, 2, 4)]
    assert np.mean(parts) == pytest.approx(equation_2(table(6)), rel=1e-5)
    # One clip per process has negatives, too.
    parts = [coincidence_loss(table(6)[row : row + 1], first_column=row).item() for row in range(6)]
    assert np.mean(parts) == pytest.approx(equation_2(table(6)), rel=1e-5)


def test_coincidence_loss__does_not_depend_on_the_order_of_clips() -> None:
    order = torch.tensor([2, 0, 4, 1, 3])
    loss = coincidence_loss(table(5)[order][:, order])
    assert loss.item() == pytest.approx(equation_2(table(5)), rel=1e-5)
    # Only rows in another order are other pairs.
    assert coincidence_loss(table(5)[order]).item() != pytest.approx(equation_2(table(5)), rel=1e-2)


def test_coincidence_loss__gradient_is_that_of_the_equation() -> None:
    assert torch.autograd.gradcheck(coincidence_loss, table(4).double().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_coincidence_loss__extreme_logits_stay_finite(scale: float, dtype: torch.dtype) -> None:
    right = (2 * torch.eye(4) - 1).mul(scale).to(dtype)
    wrong = (-right).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = coincidence_loss(wrong)
        assert coincidence_loss(right).item() == 0
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2 * scale, rel=1e-2)
    assert wrong.grad is not None
    # The most that a logit can count: 1 / N and 1 / (N (N - 1)).
    expected = torch.full((4, 4), 1 / 12).fill_diagonal_(-1 / 4)
    torch.testing.assert_close(wrong.grad.float(), expected, rtol=1e-2, atol=0)


def test_coincidence_loss__nan_is_not_hidden() -> None:
    for place in ((1, 1), (1, 2)):
        logits = table(3)
        logits[place] = math.nan
        assert coincidence_loss(logits).isnan()


def test_coincidence_loss__mistakes() -> None:
    with pytest.raises(ValueError, match="A batch of 1 has no pairs of different clips. Give every process at least 2"):
        coincidence_loss(torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"must have shape \(clips, clips\), got \(3, 3, 1\). Give one logit"):
        coincidence_loss(torch.zeros(3, 3, 1))
    for rows, first_column in ((4, 0), (2, 2), (2, -1)):
        with pytest.raises(
            ValueError, match=rf"shape \({rows}, 3\) with first_column={first_column} have rows without"
        ):
            coincidence_loss(torch.zeros(rows, 3), first_column)


def test_coincidence__is_the_loss_of_the_heads_logits() -> None:
    first, second = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    head = CoincidenceHead(8, hidden=16)
    expected = equation_2(head(first, second).detach())
    for gather_negatives in (False, True):  # one process has nothing to gather
        loss = Coincidence(gather_negatives)(head, first, second)
        assert loss.item() == pytest.approx(expected, rel=1e-5)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any tensor has whose memory was allocated inside."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                # What a view is expanded to is not allocated.
                allocated = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.num_elements = max(self.num_elements, allocated)
        return result


@pytest.mark.parametrize(("clips", "width"), [(64, 1024), (512, 1024)])
def test_coincidence__never_builds_the_concatenated_pairs(clips: int, width: int) -> None:
    head = CoincidenceHead(width, hidden=32)
    first, second = torch.randn(2, clips, width).requires_grad_()
    with LargestTensor() as largest:
        Coincidence()(head, first, second).backward()
    # At least the logits' table, or a chunk of the pairs' hidden layer; concatenated pairs would be clips^2 * 2 width.
    assert clips**2 <= largest.num_elements <= 2**20
    assert largest.num_elements < clips**2 * 2 * width / 60
