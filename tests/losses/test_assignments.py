"""Allowed and denied assignments against trying them one by one, as the published code does."""

from itertools import product

import pytest
import torch

from sslam.losses import Assignments, best_assignment, log_mse, mixit_loss, remix

ENHANCEMENT = [[0, 0, 1], [0, 1, 0]]


def signals() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    mixtures = torch.randn(40, 2, 60, generator=random, dtype=torch.float64)
    return mixtures, torch.randn(40, 3, 60, generator=random, dtype=torch.float64)


@pytest.mark.parametrize(
    ("allowed", "denied"),
    [(None, ()), (ENHANCEMENT, ()), (None, [[0, 0, 0], [1, 1, 1]]), ([*ENHANCEMENT, [1, 1, 0]], [[0, 1, 0]])],
)
def test_mixit_loss__is_the_best_of_the_assignments_that_may_be(
    allowed: list[list[int]] | None, denied: list[list[int]]
) -> None:
    mixtures, estimates = signals()
    estimates.requires_grad_()
    losses = []
    for row in product(range(2), repeat=3):
        if (allowed and list(row) not in allowed) or list(row) in list(denied):
            continue
        chosen = torch.tensor(row).expand(len(mixtures), -1)
        losses.append(log_mse(mixtures, remix(estimates, chosen, 2)).mean(dim=1))
    expected = torch.stack(losses).amin(dim=0)
    loss = mixit_loss(mixtures, estimates, assignments=Assignments(allowed, denied))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(value.sum(), estimates) for value in (loss, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-9)


def test_mixit_loss__all_assignments_are_as_without_lists_bit_for_bit() -> None:
    mixtures, estimates = signals()
    everything = Assignments([list(row) for row in product(range(2), repeat=3)])
    assert mixit_loss(mixtures, estimates).equal(mixit_loss(mixtures, estimates, assignments=everything))


def test_best_assignment__gives_speech_to_the_noisy_clip() -> None:
    mixtures, estimates = signals()
    found = best_assignment(mixtures, estimates, assignments=Assignments(ENHANCEMENT))
    assert not found[:, 0].any()
    assert (found[:, 1:].sum(dim=1) == 1).all()


def test_assignments__wrong_lists_are_refused() -> None:
    mixtures, estimates = signals()
    for wrong in ([[0, 1]], [[0, 1, 2]]):
        with pytest.raises(ValueError, match=r"a mixture, 0 to 1, for each of 3 estimates, got \[0, 1"):
            mixit_loss(mixtures, estimates, assignments=Assignments(wrong))
    with pytest.raises(ValueError, match="No assignment is left"):
        mixit_loss(mixtures, estimates, assignments=Assignments(ENHANCEMENT, ENHANCEMENT))
