"""Losses of separated signals against published tables and formulas."""

import json
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslam.losses import log_mse, permutation_invariant, si_snr
from sslam.losses.separation import pairwise_si_snr
from tests.reference.mixit_formulas import REFERENCE, noise

CASES: dict[str, Any] = json.loads((REFERENCE / "mixit_cases.json").read_text())


def signal(seed: int, shape: tuple[int, ...] = (400,), scale: float = 0.1) -> Tensor:
    return torch.from_numpy(noise(seed, shape, scale))


@pytest.mark.parametrize(("name", "max_snr"), [("max30", 30.0), ("max20", 20.0), ("max1e6", 1e6)])
def test_log_mse__is_the_published_one(name: str, max_snr: float) -> None:
    references, estimates = signal(31, (2, 3, 400)), signal(32, (2, 3, 400))
    estimates[0, 0] = references[0, 0]
    references[1, 1:] = 0
    estimates[1, 1] = 0
    loss = log_mse(references, estimates, max_snr)
    np.testing.assert_allclose(loss, CASES["log_mse"][name], rtol=0, atol=1e-5)


def test_log_mse__silence_has_no_gradient() -> None:
    estimate = torch.zeros(400, requires_grad=True)
    loss = log_mse(torch.zeros(400), estimate)
    loss.backward()
    assert loss.item() == -80
    assert estimate.grad is not None
    assert not estimate.grad.any()


def table(scale: float) -> list[tuple[Tensor, Tensor]]:
    """References and estimates of the published tables."""
    target, other = signal(51), signal(52)
    silence = torch.zeros(400)
    pairs = [
        (target, target),
        (target, 2 * target),
        (target, target + other),
        (target, target + 0.01 * other),
        (target, -target),
        (target, silence),
        (silence, other),
        (silence, silence),
        (target, 1e-4 * (target + 0.1 * other)),
    ]
    return [(scale * reference, scale * estimate) for reference, estimate in pairs]


@pytest.mark.parametrize(("name", "scale"), [("sisnr", 1), ("sisnr_small", 1e-9)])
def test_si_snr__is_the_published_one(name: str, scale: float) -> None:
    values = [si_snr(reference, estimate).item() for reference, estimate in table(scale)]
    assert values == pytest.approx(CASES["metrics"][name], rel=0, abs=1e-4)


def test_si_snr__is_the_ratio_of_the_projection_and_the_rest() -> None:
    reference = signal(1).double().numpy()
    estimate = signal(2).double().numpy() - 0.5 * reference
    projection = (estimate @ reference) / (reference @ reference) * reference
    expected = 10 * np.log10((projection**2).sum() / ((estimate - projection) ** 2).sum())
    assert si_snr(torch.from_numpy(reference), torch.from_numpy(estimate)).item() == pytest.approx(expected, abs=1e-5)


def test_pairwise_si_snr__is_every_pair() -> None:
    references, estimates = signal(1, (2, 3, 400)), signal(2, (2, 5, 400))
    estimates[0, 4] = references[0, 1]
    references[1, 2] = 0
    expected = si_snr(references[:, :, None], estimates[:, None])
    torch.testing.assert_close(pairwise_si_snr(references, estimates), expected)


def permuted_pairs() -> tuple[Tensor, Tensor]:
    references = noise(41, (3, 4, 400))
    order = np.array([(1, 0, 3, 2), (3, 2, 1, 0), (0, 1, 2, 3)])
    estimates = np.take_along_axis(references, order[..., None], axis=1) + noise(42, (3, 4, 400), 0.05)
    references[2, 2:] = 0
    return torch.from_numpy(references), torch.from_numpy(estimates.astype(np.float32))


@pytest.mark.parametrize("name", ["log_mse_rep0", "neg_sisnr_rep0"])
def test_permutation_invariant__is_the_published_one(name: str) -> None:
    references, estimates = permuted_pairs()
    if name.startswith("log_mse"):
        losses = log_mse(references[:, :, None], estimates[:, None])
    else:
        losses = pairwise_si_snr(references, estimates).neg()
    matching = permutation_invariant(losses)
    expected = CASES["permutation_invariant"][name]
    np.testing.assert_allclose(matching.loss_BN, expected["loss"], rtol=0, atol=1e-4)
    assert matching.permutation_BN.tolist() == expected["perm_est_for_ref"]


def test_permutation_invariant__matches_trying_every_permutation() -> None:
    losses = torch.randn(5, 3, 5, generator=torch.Generator().manual_seed(0))
    matching = permutation_invariant(losses)
    for loss, found, best in zip(losses, matching.permutation_BN, matching.loss_BN, strict=True):
        tried = {order: loss[torch.arange(3), list(order)].sum().item() for order in permutations(range(5), 3)}
        assert min(tried, key=lambda order: tried[order]) == tuple(found.tolist())
        assert best.sum().item() == pytest.approx(min(tried.values()))


def test_permutation_invariant__gradient_goes_to_the_pairs_alone() -> None:
    losses = torch.tensor([[[1.0, 5.0], [7.0, 2.0]]], requires_grad=True)
    permutation_invariant(losses).loss_BN.sum().backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [[[1.0, 0.0], [0.0, 1.0]]]


def test_permutation_invariant__goes_on_with_nan() -> None:
    matching = permutation_invariant(torch.full((1, 2, 2), torch.nan))
    assert matching.loss_BN.isnan().all()


def test_permutation_invariant__too_few_estimates() -> None:
    with pytest.raises(ValueError, match="2 estimates are too few for 3 references; each needs one of its own."):
        permutation_invariant(torch.zeros(1, 3, 2))
