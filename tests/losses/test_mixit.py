"""MixIT against the published numbers and against every assignment tried in NumPy."""

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslam.losses import best_assignment, mixit_loss, remix
from tests.reference.mixit_formulas import REFERENCE, loss_signals, noise

CASES: dict[str, Any] = json.loads((REFERENCE / "mixit_cases.json").read_text())


def by_trying(mixtures: np.ndarray, estimates: np.ndarray, max_snr: float = 30.0) -> tuple[float, tuple[int, ...]]:
    """Loss and assignment of one mixture of mixtures, (M, T) and (N, T), in float64."""
    best: tuple[float, tuple[int, ...]] = (np.inf, ())
    for assignment in product(range(len(mixtures)), repeat=len(estimates)):
        losses = []
        for number, mixture in enumerate(mixtures):
            error = mixture - sum(e for e, a in zip(estimates, assignment, strict=True) if a == number)
            energy = 10 ** (-max_snr / 10) * (mixture**2).sum() + (error**2).sum()
            losses.append(10 * np.log10(energy + 1e-8))
        if np.mean(losses) < best[0] - 1e-9:
            best = float(np.mean(losses)), assignment
    return best


@pytest.mark.parametrize("case", ["rand", "struct", "silent", "allzero"])
@pytest.mark.parametrize("num_estimates", [2, 4, 8])
def test_mixit_loss__is_the_published_one(num_estimates: int, case: str) -> None:
    expected = CASES[f"M{num_estimates}_{case}"]
    mixtures, estimates = loss_signals(num_estimates, case)
    estimates.requires_grad_()
    loss = mixit_loss(mixtures, estimates)
    assert loss.tolist() == pytest.approx(expected["loss"], rel=0, abs=1e-5)
    assert best_assignment(mixtures, estimates).tolist() == expected["assign"]
    loss.sum().backward()
    assert estimates.grad is not None
    np.testing.assert_allclose(estimates.grad.norm(dim=-1), expected["grad_norm"], rtol=1e-5)
    if case == "allzero":
        assert not estimates.grad.any()
    else:
        gradient = np.load(REFERENCE / "mixit_gradients.npz")[f"M{num_estimates}_{case}"]
        np.testing.assert_allclose(estimates.grad[..., ::8], gradient, rtol=1e-4, atol=1e-5)


def test_mixit_loss__three_mixtures_as_published() -> None:
    mixtures, estimates = torch.from_numpy(noise(77, (3, 3, 400))), torch.from_numpy(noise(78, (3, 4, 400)))
    expected = CASES["R3_M4_rand"]
    assert mixit_loss(mixtures, estimates).tolist() == pytest.approx(expected["loss"], rel=0, abs=1e-5)
    assert best_assignment(mixtures, estimates).tolist() == expected["assign"]


def test_best_assignment__first_of_ties() -> None:
    mixtures = torch.from_numpy(noise(5, (1, 1, 400))).expand(1, 2, 400)
    estimates = torch.from_numpy(noise(6, (1, 1, 400))).expand(1, 4, 400)
    assert best_assignment(mixtures, estimates).tolist() == CASES["ties_equal_est"]["assign"]
    assert mixit_loss(mixtures, estimates).tolist() == pytest.approx(CASES["ties_equal_est"]["loss"], abs=1e-5)


@pytest.mark.parametrize(("num_mixtures", "num_estimates"), [(1, 3), (2, 1), (2, 3), (2, 8), (3, 5), (4, 4)])
def test_mixit_loss__matches_trying_every_assignment(num_mixtures: int, num_estimates: int) -> None:
    random = np.random.RandomState(num_mixtures * 10 + num_estimates)
    mixtures = random.standard_normal((4, num_mixtures, 50))
    estimates = random.standard_normal((4, num_estimates, 50)) * 0.3
    for clip in range(4):  # shares of the mixtures, from all noise to nearly exact
        for number in range(num_estimates):
            estimates[clip, number] *= 10.0**-clip
            estimates[clip, number] += mixtures[clip, number % num_mixtures] * num_mixtures / num_estimates
    mixtures[0, 0] = 0
    expected = [by_trying(m, e, max_snr=25) for m, e in zip(mixtures, estimates, strict=True)]
    assignment = best_assignment(torch.from_numpy(mixtures), torch.from_numpy(estimates), max_snr=25)
    assert [tuple(row) for row in assignment.tolist()] == [found for _, found in expected]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        loss = mixit_loss(torch.from_numpy(mixtures).to(dtype), torch.from_numpy(estimates).to(dtype), max_snr=25)
        assert loss.tolist() == pytest.approx([best for best, _ in expected], rel=0, abs=tolerance)


def test_mixit_loss__permuting_estimates_changes_nothing() -> None:
    mixtures, estimates = (signals.double() for signals in loss_signals(8, "struct"))
    order = [3, 7, 0, 1, 6, 2, 5, 4]
    loss = mixit_loss(mixtures, estimates)
    torch.testing.assert_close(mixit_loss(mixtures, estimates[:, order]), loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixit_loss(mixtures.flip(1), estimates), loss, rtol=0, atol=1e-12)
    permuted = best_assignment(mixtures, estimates[:, order])
    assert torch.equal(permuted, best_assignment(mixtures, estimates)[:, order])


def test_mixit_loss__a_loud_exact_separation_reaches_the_floor_in_float32() -> None:
    # Energies alone would lose the error in float32: it is 1e-8 of theirs.
    random = torch.Generator().manual_seed(0)
    mixtures = torch.randn(1, 2, 160_000, generator=random)
    estimates = mixtures + 1e-4 * torch.randn(1, 2, 160_000, generator=random)
    loss = mixit_loss(mixtures, estimates, max_snr=60)
    expected = by_trying(mixtures[0].double().numpy(), estimates[0].double().numpy(), max_snr=60)[0]
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_mixit_loss__long_clips_need_little_memory() -> None:
    saved: list[Tensor] = []
    mixtures, estimates = torch.randn(1, 2, 16_000), torch.randn(1, 8, 16_000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        mixit_loss(mixtures, estimates)
    assert sum(tensor.numel() for tensor in saved) < 3 * 8 * 16_000  # of 256 assignments


def test_mixit_loss__is_float32_under_autocast() -> None:
    mixtures, estimates = loss_signals(4, "struct")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mixit_loss(mixtures, estimates)
    assert torch.equal(loss, mixit_loss(mixtures, estimates))


def test_remix__adds_up_what_is_assigned() -> None:
    estimates = torch.tensor([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]])
    assert remix(estimates, torch.tensor([[1, 0, 1]]), 3).tolist() == [[[10.0, 20.0], [101.0, 202.0], [0.0, 0.0]]]


@pytest.mark.parametrize(
    ("mixtures", "estimates", "message"),
    [
        ((2, 2, 40), (2, 4, 41), "must have the same B and T, got (2, 2, 40) and (2, 4, 41)."),
        ((3, 2, 40), (2, 4, 40), "must have the same B and T, got (3, 2, 40) and (2, 4, 40)."),
        ((1, 3, 40), (1, 12, 40), "12 estimates of 3 mixtures have 531441 assignments, more than 65536."),
    ],
)
def test_mixit_loss__refuses(mixtures: tuple[int, ...], estimates: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        mixit_loss(torch.zeros(mixtures), torch.zeros(estimates))
