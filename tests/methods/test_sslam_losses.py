"""What the losses of the method mean: their scale, weights and moments, and that nothing is computed in vain."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sslam.methods import Objectives
from sslam.metrics import Moments
from sslam.transforms import InverseBlockMasking
from tests.methods.sslam_method import BOOTSTRAPPING, losses_of, make_method, make_stage


def test_losses__more_clips_or_clones_keep_the_scale() -> None:
    module = make_method(cls_loss_weight=10.0)
    features = torch.randn(4, 128, 128)
    few = losses_of(module, features[:2], make_stage(num_clones=2))
    many = losses_of(module, features.repeat(4, 1, 1), make_stage(num_clones=8))
    for term in ("patch", "cls", "source_retention"):
        assert getattr(many, term).item() == pytest.approx(getattr(few, term).item(), rel=0.15)


def test_losses__accumulated_gradients_are_those_of_one_large_batch() -> None:
    features = torch.randn(4, 128, 128)
    stage = make_stage(objectives=BOOTSTRAPPING, num_clones=1)
    gradients = []
    masks = InverseBlockMasking()(4, (8, 8), torch.Generator().manual_seed(0))
    for parts in (1, 2):
        module = make_method(mask_noise_std=0.0)
        for part in range(parts):
            rows = slice(part * 4 // parts, (part + 1) * 4 // parts)
            chosen = type(masks)(masks.kept_ids[rows], masks.masked[rows])
            module.masking = lambda *_, chosen=chosen: chosen  # type: ignore[assignment]
            (losses_of(module, features[rows], stage).total / parts).backward()
        gradients.append([parameter.grad for parameter in module.student.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("objectives", "student_rows", "teacher_rows"),
    [
        (BOOTSTRAPPING, 4, 2),  # MB-UA
        (Objectives(0, 1, 0), 4, 2),  # MB-PMA
        (Objectives(1, 1, 0), 8, 4),  # MB-UA-PMA
        (Objectives(1, 1, 2), 8, 6),  # SSLAM: the teacher also hears the partners
        (Objectives(0, 0, 1), 4, 4),
    ],
)
def test_objectives__only_what_an_ablation_needs_is_computed(
    objectives: Objectives, student_rows: int, teacher_rows: int
) -> None:
    module = make_method()
    rows = {"student": 0, "teacher": 0}

    def count(name: str) -> Any:
        def hook(block: Any, inputs: tuple[Tensor], output: Any) -> None:
            rows[name] += len(inputs[0])

        return hook

    module.student.blocks[0].register_forward_hook(count("student"))
    module.teacher.encoder.blocks[0].register_forward_hook(count("teacher"))
    losses = losses_of(module, torch.randn(2, 128, 128), make_stage(objectives=objectives))
    assert rows == {"student": student_rows, "teacher": teacher_rows}
    assert losses.total.isfinite()
    assert (losses.source_retention > 0) == (objectives.source_retention > 0)
    assert (losses.patch > 0) == (objectives.unmixed + objectives.mixed > 0)


def test_losses__the_teacher_embeds_every_clip_and_mixture_once() -> None:
    module = make_method()
    rows: list[int] = []
    module.teacher.encoder.patch_embed.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    losses_of(module, torch.randn(3, 128, 128), make_stage())
    assert sum(rows) == 6


def test_losses__a_weight_scales_its_term() -> None:
    features = torch.randn(2, 128, 128)
    one = losses_of(make_method(), features, make_stage(objectives=Objectives(1, 1, 1)))
    three = losses_of(make_method(), features, make_stage(objectives=Objectives(3, 3, 6)))
    assert three.patch.item() == pytest.approx(3 * one.patch.item(), rel=1e-5)
    assert three.cls.item() == pytest.approx(3 * one.cls.item(), rel=1e-5)
    assert three.source_retention.item() == pytest.approx(6 * one.source_retention.item(), rel=1e-5)


def test_losses__bf16_autocast_gives_float32_losses_near_those_of_float32() -> None:
    module, features = make_method(), torch.randn(2, 128, 128)
    expected = losses_of(module, features, make_stage())
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(module, features, make_stage())
    assert losses.total.dtype == torch.float32
    assert losses.total.item() == pytest.approx(expected.total.item(), rel=0.03)


def test_moments__stay_in_float32_under_autocast() -> None:
    vectors, weights = torch.randn(1000, 8) * 1e-2 + 1.0, torch.ones(1000)
    expected = vectors.double().std(dim=0).mean()
    with torch.autocast("cpu", torch.bfloat16):
        spread = Moments.of(vectors, weights).standard_deviation()
    # The floor of 1e-6 in the variance is data2vec's.
    assert spread.item() == pytest.approx((expected**2 + 1e-6).sqrt().item(), rel=0.02)


def test_moments__add_up() -> None:
    first, second = torch.randn(30, 8), torch.randn(50, 8) + 2
    together = Moments.of(torch.cat([first, second]), torch.ones(80)).standard_deviation()
    added = (Moments.of(first, torch.ones(30)) + Moments.of(second, torch.ones(50))).standard_deviation()
    assert added.item() == pytest.approx(together.item(), rel=1e-6)
