"""NT-Xent against equation (1) in plain numpy, and what must not change it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sslam.losses import NTXent, nt_xent_loss


def views(clips: int = 5, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    first = torch.randn(clips, width, generator=random)
    return first, first + torch.randn(clips, width, generator=random)


def equation_1(first: Tensor, second: Tensor, temperature: float) -> float:
    """Mean over both directions of all pairs."""
    z = np.concatenate([first.double().numpy(), second.double().numpy()])
    n = len(first)

    def sim(i: int, j: int) -> float:
        return z[i] @ z[j] / (np.linalg.norm(z[i]) * np.linalg.norm(z[j]))

    def loss(i: int, j: int) -> float:
        denominator = sum(np.exp(sim(i, v) / temperature) for v in range(2 * n) if v != i)
        return -np.log(np.exp(sim(i, j) / temperature) / denominator)

    return float(np.mean([loss(i, i + n) for i in range(n)] + [loss(i + n, i) for i in range(n)]))


@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("clips", [2, 5])
def test_nt_xent_loss__is_equation_1(clips: int, temperature: float) -> None:
    first, second = views(clips)
    loss = nt_xent_loss(first, second, temperature)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert loss.item() == pytest.approx(equation_1(first, second, temperature), rel=1e-5)
    assert NTXent(temperature)(first, second).item() == loss.item()


def test_nt_xent_loss__published_temperature_is_the_default() -> None:
    first, second = views()
    assert nt_xent_loss(first, second).item() == nt_xent_loss(first, second, 0.3).item()
    assert NTXent()(first, second).item() == nt_xent_loss(first, second, 0.3).item()


def test_nt_xent_loss__views_all_alike_give_the_logarithm_of_their_number() -> None:
    alike = torch.ones(6, 8)
    assert nt_xent_loss(alike, alike).item() == pytest.approx(math.log(11))


def test_nt_xent_loss__perfect_views_leave_what_the_temperature_allows() -> None:
    perfect = torch.eye(6)
    # Similarity 1 to the other view, 0 to the ten views of other clips.
    expected = -math.log(math.exp(1 / 0.3) / (math.exp(1 / 0.3) + 10))
    assert nt_xent_loss(perfect, perfect).item() == pytest.approx(expected, rel=1e-5)
    assert nt_xent_loss(perfect, perfect, 0.01).item() == pytest.approx(0, abs=1e-6)
    # The pairs are those of equal rows.
    assert nt_xent_loss(perfect, perfect.roll(1, dims=0)).item() > expected + 3


def test_nt_xent_loss__does_not_depend_on_lengths_order_or_which_view_is_first() -> None:
    first, second = views()
    loss = nt_xent_loss(first, second).item()
    lengths = torch.logspace(-3, 3, 5).unsqueeze(1)
    order = torch.tensor([3, 1, 4, 0, 2])
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    assert nt_xent_loss(first * lengths, second * lengths.flip(0)).item() == pytest.approx(loss, rel=1e-5)
    assert nt_xent_loss(first[order], second[order]).item() == pytest.approx(loss, rel=1e-5)
    assert nt_xent_loss(second, first).item() == pytest.approx(loss, rel=1e-5)
    assert nt_xent_loss(first @ rotation, second @ rotation).item() == pytest.approx(loss, rel=1e-5)


def test_nt_xent_loss__gradient_is_that_of_the_equation() -> None:
    first, second = (view.double().requires_grad_() for view in views(3, 4))
    assert torch.autograd.gradcheck(nt_xent_loss, (first, second))
    assert nt_xent_loss(first, second).dtype == torch.float64


def test_nt_xent_loss__is_computed_in_float32_under_autocast() -> None:
    first, second = (view.bfloat16() for view in views(16, 128))
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent_loss(first, second)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(equation_1(first, second, 0.3), rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15])
def test_nt_xent_loss__extreme_embeddings_and_temperatures_stay_finite(scale: float) -> None:
    first, second = (view.bfloat16() * scale for view in views())
    first.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent_loss(first, -second, temperature=1e-4)  # exp(1e4) would be infinite
    loss.backward()
    assert loss.isfinite()
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_nt_xent_loss__nan_is_not_hidden() -> None:
    first, second = views()
    first[2, 3] = math.nan
    assert nt_xent_loss(first, second).isnan()


def test_nt_xent_loss__mistakes() -> None:
    with pytest.raises(ValueError, match="A batch of 1 has no negatives: .* at least 2 clips, or gather the negatives"):
        nt_xent_loss(torch.ones(1, 8), torch.ones(1, 8))
    with pytest.raises(ValueError, match="A batch of 0 has no negatives"):
        nt_xent_loss(torch.ones(0, 8), torch.ones(0, 8))
    with pytest.raises(ValueError, match=r"must be of one shape \(clips, width\), got \(4, 8\) and \(3, 8\)."):
        nt_xent_loss(torch.ones(4, 8), torch.ones(3, 8))
    with pytest.raises(ValueError, match=r"must be of one shape \(clips, width\), got \(4, 8, 1\)"):
        nt_xent_loss(torch.ones(4, 8, 1), torch.ones(4, 8, 1))
    for temperature in (0.0, -0.3, math.nan):
        with pytest.raises(ValueError, match=f"temperature must be greater than 0, got {temperature}."):
            NTXent(temperature)
