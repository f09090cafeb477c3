"""The running mean of the targets of each place, against a reference in numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslam.losses import masked_latent_loss
from sslam.metrics import PatchLosses, PositionMeans

CLIPS, CLONES, PATCHES, WIDTH = 4, 3, 6, 8


def draw(seed: int, position: float = 1.0, content: float = 1.0, patches: int = PATCHES) -> Tensor:
    """Targets (B, P, D), of a part that every batch shares at each place and one that it does not."""
    places = torch.randn(patches, WIDTH, generator=torch.Generator().manual_seed(99))
    clips = torch.randn(CLIPS, patches, WIDTH, generator=torch.Generator().manual_seed(seed))
    return position * places + content * clips


def compare(means: PositionMeans, target_BPD: Tensor, student: float = 0.0) -> PatchLosses | None:
    weight_BP = torch.full(target_BPD.shape[:2], 1 / target_BPD[..., 0].numel())
    return means.compare(torch.tensor(student), {"clip": (target_BPD, weight_BP)})


def test_compare__is_the_patch_loss_of_the_mean_before_the_batch_at_the_masked_patches() -> None:
    means, decay = PositionMeans(0.7), 0.7
    batches = [draw(seed) for seed in range(4)]
    for target in batches[:3]:
        compare(means, target)
    masked = torch.rand(CLIPS, CLONES, PATCHES, generator=torch.Generator().manual_seed(1)) > 0.3
    weight_BP = 2.0 / masked.sum() * masked.sum(dim=1)
    losses = means.compare(torch.tensor(3.0), {"clip": (batches[3], weight_BP)})
    assert losses is not None

    # The weights of an average with Adam's bias correction, in float64.
    shares = np.array([(1 - decay) * decay**age for age in (2, 1, 0)]) / (1 - decay**3)
    mean_PD = sum(share * batch.double().numpy().mean(0) for share, batch in zip(shares, batches[:3], strict=True))
    for found, prediction in ((losses.of_position, mean_PD), (losses.of_constant, mean_PD.mean(0)[None])):
        error_BP = ((prediction - batches[3].double().numpy()) ** 2).sum(-1) / WIDTH**0.5
        expected = 2 * (masked.numpy() * error_BP[:, None]).sum() / masked.sum().item()
        assert found.item() == pytest.approx(expected, rel=1e-5)
    # As the method measures a student that predicts the mean.
    prediction = torch.tensor(mean_PD).float().expand(CLIPS, CLONES, -1, -1)
    loss = 2 * masked_latent_loss(prediction, batches[3], masked) / masked.sum()
    assert losses.of_position.item() == pytest.approx(loss.item(), rel=1e-5)
    assert losses.above_position().item() == pytest.approx(3 / loss.item(), rel=1e-5)


def test_compare__sums_the_kinds_with_their_weights_and_only_keeps_the_mean_of_one_without() -> None:
    def losses_of(kinds: list[str]) -> PatchLosses:
        means, weights = PositionMeans(), {"clip": torch.full((CLIPS, PATCHES), 0.5), "mixture": torch.ones(4, 6)}
        for seed in (0, 1):
            targets = {kind: (draw(10 * seed + len(kind)), weights.get(kind)) for kind in kinds}
            losses = means.compare(torch.ones(()), targets)
        assert losses is not None
        return losses

    together = losses_of(["clip", "mixture", "sources"])
    for number in (1, 2):
        parts = losses_of(["clip"])[number] + losses_of(["mixture"])[number]
        assert together[number].item() == pytest.approx(parts.item(), rel=1e-6)


def test_compare__nothing_before_every_kind_has_a_mean_or_where_none_has_weights() -> None:
    means, weight_BP = PositionMeans(), torch.ones(CLIPS, PATCHES)
    assert compare(means, draw(0)) is None
    assert compare(means, draw(1)) is not None
    both = {"clip": (draw(2), weight_BP), "mixture": (draw(3), weight_BP)}
    assert means.compare(torch.ones(()), both) is None
    assert means.compare(torch.ones(()), both) is not None
    without: Any = {"sources": (draw(2), None)}
    assert means.compare(torch.ones(()), without) is None
    assert means.compare(torch.ones(()), without) is None
    assert means.mean_of("sources", draw(2)) is not None


def test_compare__another_grid_begins_anew() -> None:
    means = PositionMeans()
    for seed in range(3):
        compare(means, draw(seed))
    other = draw(5, patches=4)
    assert means.mean_of("clip", other) is None
    assert compare(means, other) is None
    mean_PD = means.mean_of("clip", other)
    assert mean_PD is not None
    torch.testing.assert_close(mean_PD, other.mean(dim=0))  # bias-corrected: the first batch is the mean
    assert compare(means, other) is not None


@pytest.mark.parametrize(("position", "content", "share"), [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (3.0, 1.0, 0.9)])
def test_position_share__is_the_share_of_the_variance(position: float, content: float, share: float) -> None:
    means = PositionMeans()
    for seed in range(60):
        losses = compare(means, draw(seed, position, content))
    assert losses is not None
    assert losses.position_share().item() == pytest.approx(share, abs=0.05)


def test_state__a_resumed_mean_is_the_same_to_the_bit(tmp_path: Any) -> None:
    straight, first, resumed = PositionMeans(), PositionMeans(), PositionMeans()
    for seed in range(5):
        compare(straight, draw(seed))
    for seed in range(3):
        compare(first, draw(seed))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    compare(first, draw(77))  # what was saved does not change
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in (3, 4):
        compare(resumed, draw(seed))
    found, expected = resumed.mean_of("clip", draw(0)), straight.mean_of("clip", draw(0))
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)


def test_compare__leaves_the_graph_alone() -> None:
    student = torch.ones((), requires_grad=True)
    means = PositionMeans()
    target = draw(0).requires_grad_()
    for _ in range(2):
        losses = means.compare(student, {"clip": (target, torch.ones(CLIPS, PATCHES))})
    assert losses is not None
    assert not any(loss.requires_grad for loss in losses)
    mean_PD = means.mean_of("clip", target)
    assert mean_PD is not None
    assert not mean_PD.requires_grad


def test_position_means__a_decay_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decay must be at least 0 and less than 1, got 1.0"):
        PositionMeans(1.0)


def test_compare__a_kind_without_weights_need_not_be_known() -> None:
    """As the sources of a stage that has just begun to retain them."""
    target, weight = torch.randn(2, 6, 4), torch.ones(2, 6)
    means = PositionMeans()
    assert means.compare(torch.tensor(1.0), {"clip": (target, weight)}) is None
    found = means.compare(torch.tensor(1.0), {"clip": (target, weight), "sources": (target, None)})
    assert found is not None
    assert set(means.means) == {"clip", "sources"}


def test_compare__what_is_not_finite_leaves_the_mean_as_it_is() -> None:
    target = torch.randn(2, 6, 4)
    means = PositionMeans()
    means.compare(torch.tensor(1.0), {"clip": (target, None)})
    before, _ = means.means["clip"]
    spoilt = target.clone()
    spoilt[0, 3, 1] = torch.nan
    means.compare(torch.tensor(1.0), {"clip": (spoilt, None)})
    after, _ = means.means["clip"]
    torch.testing.assert_close(after, before)
    first = PositionMeans()
    first.compare(torch.tensor(1.0), {"clip": (spoilt, None)})
    assert first.means["clip"][0].isfinite().all()
