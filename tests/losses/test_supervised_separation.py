"""Permutation-invariant training against the published FUSS baseline transcribed, in float64."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from sslam.losses import supervised_separation_loss
from sslam.losses.supervised_separation import match_number

CLIPS, SOURCES, SAMPLES = 5, 4, 300


def make_signals() -> tuple[Tensor, Tensor, Tensor]:
    """Sources of which 4, 3, 2, 1 and none sound, in any row; estimates in another order; mixtures."""
    random = torch.Generator().manual_seed(0)
    sources = 0.1 * torch.randn(CLIPS, SOURCES, SAMPLES, generator=random, dtype=torch.float64)
    for clip in range(CLIPS):
        sources[clip, torch.randperm(SOURCES, generator=random)[:clip]] = 0
    noise = 0.05 * torch.randn(CLIPS, SOURCES, SAMPLES, generator=random, dtype=torch.float64)
    sources[4] = 0
    return sources, sources.roll(1, dims=1) + noise, sources.sum(dim=1)


def log_mse_loss(source: Tensor, separated: Tensor, max_snr: float = 1e6, bias: Tensor | None = None) -> Tensor:
    """``log_mse_loss`` of the published code."""
    error = (source - separated).square().sum(-1)
    reference = (source if bias is None else bias).square().sum(-1)
    return 10 * torch.log10(10.0 ** (-max_snr / 10) * reference + error + 1e-8)


def published_loss(sources: Tensor, estimates: Tensor, mixtures: Tensor, zero_weight: float = 1.0) -> Tensor:
    """Loss of a batch: aligned without a threshold, then split into silent references and others."""
    total = torch.zeros((), dtype=torch.float64)
    for source, estimate, mixture in zip(sources, estimates, mixtures, strict=True):
        orders = [list(order) for order in permutations(range(len(source)))]
        best = min(orders, key=lambda order: log_mse_loss(source, estimate[order]).sum().item())
        for one, found in zip(source, estimate[best], strict=True):
            if one.square().mean().sqrt() > 1e-8:
                total = total + log_mse_loss(one, found, max_snr=30)
            else:
                total = total + zero_weight * log_mse_loss(one, found, max_snr=20, bias=mixture)
    return total / (len(sources) * sources.shape[1])


@pytest.mark.parametrize("weight", [1.0, 0.2, 0.0])
def test_supervised_separation_loss__is_that_of_the_published_baseline(weight: float) -> None:
    sources, estimates, mixtures = make_signals()
    estimates.requires_grad_()
    loss = supervised_separation_loss(sources, estimates, mixtures, absent_weight=weight).mean()
    expected = published_loss(sources, estimates, mixtures, weight)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(value, estimates) for value in (loss, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-12)


def test_supervised_separation_loss__missing_sources_are_absent_ones() -> None:
    sources, estimates, mixtures = make_signals()
    few = sources[3:4, :1] + sources[0:1, :1]
    padded = torch.cat([few, torch.zeros(1, 3, SAMPLES, dtype=torch.float64)], dim=1)
    one = supervised_separation_loss(few, estimates[:1], mixtures[:1])
    assert one.equal(supervised_separation_loss(padded, estimates[:1], mixtures[:1]))


def test_supervised_separation_loss__order_of_sources_and_estimates_does_not_matter() -> None:
    sources, estimates, mixtures = make_signals()
    expected = supervised_separation_loss(sources, estimates, mixtures)
    for order in ([3, 1, 0, 2], [1, 0, 3, 2]):
        torch.testing.assert_close(supervised_separation_loss(sources[:, order], estimates, mixtures), expected)
        torch.testing.assert_close(supervised_separation_loss(sources, estimates[:, order], mixtures), expected)


def test_supervised_separation_loss__silence_has_a_floor_and_no_gradient() -> None:
    estimates = torch.zeros(1, 2, 100, requires_grad=True)
    loss = supervised_separation_loss(torch.zeros(1, 2, 100), estimates, torch.zeros(1, 100))
    loss.sum().backward()
    assert loss.item() == pytest.approx(-80)
    assert estimates.grad is not None
    assert not estimates.grad.any()


def test_match_number__leaves_silent_rows_out_and_refuses_sources_without_an_output() -> None:
    sources = torch.randn(2, 5, 20)
    sources[0, [0, 2, 3]] = 0
    sources[1, 1:] = 0
    matched = match_number(sources, 2)
    assert matched[0].equal(sources[0, [1, 4]])
    assert matched[1, 0].equal(sources[1, 0])
    assert not matched[1, 1].any()
    with pytest.raises(ValueError, match="A clip has 2 sources and the separator 1 outputs.*a greater num_sources"):
        match_number(sources, 1)
