"""The objectives of SSLAM's algorithm 1 and global source retention, against the published code transcribed."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslam.methods import SSLAM, Objectives, Stage
from sslam.transforms import FullMixing, Mixing, PartialMixing, RandomSource
from tests.methods.sslam_method import losses_of, make_method, make_stage

ROWS = 8  # of a column
FEATURES = torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def wide_method(mixing: Mixing | None = None) -> SSLAM:
    module = make_method(cls_loss_weight=6.0, mask_noise_std=0.0).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    module.mixing = mixing or PartialMixing()
    return module


def layer_results(module: SSLAM, patches_BPD: Tensor) -> list[Tensor]:
    """Outputs of every layer's MLP at the patches."""
    tokens, results = module.teacher.encoder.prepare_tokens(patches_BPD), []
    for block in module.teacher.encoder.blocks:
        tokens, mlp_output = block(tokens)
        results.append(mlp_output[:, 1:])
    return results


def make_targets(results: list[Tensor], num_layers: int | None) -> Tensor:
    """``make_targets`` of the published code."""
    chosen = results if num_layers is None else results[-num_layers:]
    normed = [F.instance_norm(result.transpose(1, 2)).transpose(1, 2) for result in chosen]
    mean = torch.stack(normed).mean(dim=0)
    return F.layer_norm(mean, mean.shape[-1:])


COMBINE = {
    "mean": lambda own, other: (own + other) / 2,
    "max": torch.maximum,
    "sum": lambda own, other: own + other,
}


@torch.no_grad()
def teach(module: SSLAM, features: Tensor, mixture: Any, stage: Stage) -> dict[str, Tensor]:
    embed, columns = module.teacher.encoder.embed, mixture.mixed_columns
    own, mixed = (layer_results(module, embed(x)) for x in (features, mixture.features))
    # The published code drops the columns of the clip's own patches and rolls what comes out.
    dropped = layer_results(module, embed(features).unflatten(1, (-1, ROWS))[:, columns].flatten(1, 2))
    combine = COMBINE[stage.source_combination]
    own_patch = make_targets(own, stage.patch_target_layers)
    other_patch = make_targets(dropped, stage.patch_target_layers).roll(1, dims=0)
    retained = own_patch.clone()
    for number, column in enumerate(columns.tolist()):
        here, there = slice(column * ROWS, (column + 1) * ROWS), slice(number * ROWS, (number + 1) * ROWS)
        retained[:, here] = combine(own_patch[:, here], other_patch[:, there])
    own_cls = make_targets(own, stage.cls_target_layers).mean(dim=1)
    other_cls = make_targets(dropped, stage.cls_target_layers).roll(1, dims=0).mean(dim=1)
    return {
        "own": own_patch,
        "own_cls": own_cls,
        "mixed": make_targets(mixed, stage.patch_target_layers),
        "mixed_cls": make_targets(mixed, stage.cls_target_layers).mean(dim=1),
        "retained": retained,
        "retained_cls": combine(own_cls, other_cls),
    }


def transcribed_loss(module: SSLAM, stage: Stage) -> Tensor:
    """The loss as the published code adds it up; one draw of masks and windows, in the order of the method."""
    random, weights = RandomSource.seeded(torch.device("cpu"), 5), stage.objectives
    masks = module.draw_masks(FEATURES, stage.num_clones, random)
    own_cls, own = module.predict_latents(FEATURES, masks, random)
    mixture = module.mixing(FEATURES, 16, random.cpu)
    mixed_cls, mixed = module.predict_latents(mixture.features, masks, random)
    targets = teach(module, FEATURES, mixture, stage)

    def local_loss(prediction: Tensor, target: Tensor) -> Tensor:
        target = target.repeat_interleave(stage.num_clones, 0)[masks.masked.flatten(0, 1)]
        return ((prediction.flatten(0, 1)[masks.masked.flatten(0, 1)] - target) ** 2 / 32**0.5).sum()

    def global_loss(cls: Tensor, target: Tensor) -> Tensor:
        return ((cls.flatten(0, 1) - target.repeat_interleave(stage.num_clones, 0)) ** 2 / 32**0.5).sum()

    views = weights.uses_clips + weights.uses_mixtures
    sample_size = views * int(masks.masked.sum())
    scale = sample_size * module.cls_loss_weight / (views * 3 * stage.num_clones)
    total = weights.unmixed * local_loss(own, targets["own"]) + weights.mixed * local_loss(mixed, targets["mixed"])
    total = total + weights.source_retention * local_loss(mixed, targets["retained"])
    total = total + scale * weights.unmixed_cls * global_loss(own_cls, targets["own_cls"])
    total = total + scale * weights.mixed_cls * global_loss(mixed_cls, targets["mixed_cls"])
    total = total + scale * weights.source_retention_global * global_loss(mixed_cls, targets["retained_cls"])
    return total / sample_size


def gradients_of(module: SSLAM, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, [*module.student.parameters(), *module.decoder.parameters()], allow_unused=True)
    return torch.cat([gradient.flatten() for gradient in found if gradient is not None])


@pytest.mark.parametrize("mixing", [PartialMixing(), FullMixing()])
@pytest.mark.parametrize(
    "stage",
    [
        make_stage(),  # published
        make_stage(objectives=Objectives(source_retention_global=2)),
        make_stage(objectives=Objectives(0.3, 0.5, 0.7, 1.1, 1.3, 1.7)),
        make_stage(objectives=Objectives(1, 1, 0, 0, 0)),
        make_stage(objectives=Objectives(0, 0, 0, 1, 1, 2)),
        make_stage(cls_target_layers=None),
        make_stage(cls_target_layers=None, patch_target_layers=1),
        make_stage(patch_target_layers=1, objectives=Objectives(source_retention_global=2)),
        make_stage(source_combination="max", objectives=Objectives(source_retention_global=2)),
        make_stage(source_combination="sum", objectives=Objectives(source_retention_global=2)),
    ],
)
def test_losses__are_those_of_the_published_code_for_every_switch(stage: Stage, mixing: Mixing) -> None:
    module = wide_method(mixing)
    loss, expected = losses_of(module, FEATURES, stage).total, transcribed_loss(module, stage)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradient, expected_gradient = gradients_of(module, loss), gradients_of(module, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6 * expected_gradient.abs().max().item())


def test_losses__tied_weights_are_the_published_ones_bit_for_bit() -> None:
    """The global weights named or left out, and a source retention without global loss: the same loss and gradient."""
    features, found = FEATURES.float(), []
    for objectives in (Objectives(), Objectives(1, 1, 2, 1, 1, 0)):
        module = make_method()
        losses = losses_of(module, features, make_stage(objectives=objectives))
        assert losses.total.equal(losses.patch + losses.cls + losses.source_retention)
        assert losses.source_retention_cls == 0
        found.append((losses.total, gradients_of(module, losses.total)))
    assert found[0][0].equal(found[1][0])
    assert found[0][1].equal(found[1][1])


def test_by_name__has_the_terms_of_the_objectives() -> None:
    losses = losses_of(make_method(), FEATURES.float(), make_stage(objectives=Objectives(source_retention_global=2)))
    terms = losses.by_name(Objectives(source_retention_global=2))
    assert set(terms) == {"patch_loss", "cls_loss", "source_retention_loss", "source_retention_cls_loss"}
    assert sum(terms.values()).item() == pytest.approx(losses.total.item())
    assert set(losses.by_name(Objectives(1, 1, 0))) == {"patch_loss", "cls_loss"}


def test_features__waveforms_are_added_up_only_where_a_stage_mixes_them() -> None:
    module = make_method()
    waveforms, lengths = torch.randn(3, 20720) * 0.1, torch.tensor([20720, 12000, 9000])
    for row, length in enumerate(lengths):
        waveforms[row, length:] = 0
    features, summed = module.features(waveforms, lengths, make_stage())
    assert summed is None
    module.mixing = PartialMixing(of_waveforms=True)
    assert module.features(waveforms, lengths, make_stage(objectives=Objectives(1, 0, 0)))[1] is None
    _, summed = module.features(waveforms, lengths, make_stage())
    assert summed is not None
    for row in range(3):
        longer = max(lengths[row], lengths[row - 1])
        alone = module.frontend((waveforms[row] + waveforms[row - 1])[None, :longer])
        torch.testing.assert_close(summed[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    mixture = module.mixing(features, 16, torch.Generator().manual_seed(0), summed)
    mixed = torch.zeros(8, dtype=torch.bool).index_fill_(0, mixture.mixed_columns, True).repeat_interleave(16)
    assert mixture.features[:, mixed].equal(summed[:, mixed])
    assert mixture.features[:, ~mixed].equal(features[:, ~mixed])


def test_objectives__values_that_train_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one of them > 0"):
        Objectives(0, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="Objective weights must be >= 0"):
        Objectives(mixed_global=-1)
    with pytest.raises(ValueError, match="patch_target_layers must be between 1 and the encoder's depth 2, got 3"):
        make_method([make_stage(patch_target_layers=3)])
