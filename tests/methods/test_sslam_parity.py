"""The method against numbers measured on the published code: two stages at a small size, stage 1 at base size."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslam.ema import ema_decay_at
from sslam.frontends import KaldiFbank
from sslam.methods import SSLAM, Objectives, Stage
from sslam.networks import AudioViT, ConvDecoder
from sslam.optim import warmup_cosine
from sslam.transforms import InverseBlockMasking, Masks, PartialMixing, RandomSource
from tests.reference.formulas import input_formula, published_name, set_formula_weights

REFERENCE = Path(__file__).parents[1] / "reference"
RTOL = 1e-4
CLIPS, CLONES = 4, 2


class ReferenceMasking(InverseBlockMasking):
    """Gives out the reference's masks."""

    def __init__(self, masked: np.ndarray) -> None:
        super().__init__()
        self.masked = torch.from_numpy(masked).bool()

    def __call__(self, num_masks: int, grid: tuple[int, int], generator: torch.Generator) -> Masks:
        return Masks((~self.masked).nonzero()[:, 1].view(num_masks, -1), self.masked)


class ReferenceMixing(PartialMixing):
    """The reference's windows: frames 400 and 736, 240 frames each."""

    def draw_windows(self, num_columns: int, generator: torch.Generator) -> tuple[int, int, int]:
        return 400 // 16, 736 // 16, 240 // 16


@dataclass
class Case:
    """One run of the method beside what the published code gave."""

    module: SSLAM
    stage: Stage
    losses: Any
    expected: dict[str, Any]
    numbers: Any
    features: Tensor
    encoded: list[Tensor]
    decoded: list[Tensor]


STAGES = {
    "stage1": Stage(num_clones=CLONES, cls_target_layers=None, objectives=Objectives(1, 0, 0)),
    "stage2": Stage(num_clones=CLONES),
}


@pytest.fixture(
    scope="module",
    params=["stage1_small", "stage2_small", pytest.param("stage1", marks=pytest.mark.slow)],
)
def case(request: pytest.FixtureRequest) -> Case:
    expected = json.loads((REFERENCE / f"sslam_{request.param}.json").read_text())
    numbers = np.load(REFERENCE / f"sslam_{request.param}.npz")
    width, depth, heads, decoder_depth = (192, 4, 3, 2) if "small" in request.param else (768, 12, 12, 6)
    stage = STAGES[request.param.removesuffix("_small")]
    rows = CLIPS * CLONES * expected["stage"]
    module = SSLAM(
        encoder=AudioViT(width, depth, heads),
        decoder=ConvDecoder(width, width, decoder_depth),
        frontend=KaldiFbank(),
        masking=ReferenceMasking(np.unpackbits(numbers["mask"], axis=1)),
        mixing=ReferenceMixing(),
        stages=[stage],
        cls_loss_weight=rows,  # a mean over rows times their number is the published sum
        mask_noise_std=0.0,
    )
    set_formula_weights(module)
    encoded: list[Tensor] = []
    decoded: list[Tensor] = []
    last_block = module.student.blocks[-1]
    last_block.register_forward_hook(lambda _, __, output: encoded.append(output[0].detach()))
    module.decoder.register_forward_hook(lambda _, __, output: decoded.append(output.detach()))
    features = torch.from_numpy(input_formula(CLIPS))[:, 0]
    losses = module.losses(features, stage, RandomSource.seeded(torch.device("cpu"), 0))
    losses.total.backward()
    return Case(module, stage, losses, expected, numbers, features, encoded, decoded)


def assert_subsampled(numbers: Any, name: str, tensor: Tensor, **tolerance: float) -> None:
    """Compare a tensor (rows, tokens, D) with its stored corner, grid and token norms."""
    array = tensor.detach().double().numpy()
    tolerance = {"rtol": RTOL, "atol": 2e-5} | tolerance
    np.testing.assert_allclose(array[:, :8, :16], numbers[f"{name}__head"], **tolerance)
    np.testing.assert_allclose(array[:, ::37, ::53], numbers[f"{name}__grid"], **tolerance)
    np.testing.assert_allclose(np.linalg.norm(array, axis=-1)[:, ::4], numbers[f"{name}__tokl2"], rtol=RTOL)


def test_losses__terms_and_total(case: Case) -> None:
    terms = case.expected["terms"]
    patch, cls = ("IMAGE_regression", "cls") if case.expected["stage"] == 1 else ("eat_patch_loss", "eat_cls_loss")
    assert case.losses.patch.item() == pytest.approx(terms[patch], rel=RTOL)
    assert case.losses.cls.item() == pytest.approx(terms[cls], rel=RTOL)
    assert case.losses.source_retention.item() == pytest.approx(terms.get("mix_patch_loss", 0.0), rel=RTOL)
    assert case.losses.total.item() == pytest.approx(case.expected["loss"], rel=RTOL)


def test_losses__spread_of_targets_and_predictions(case: Case) -> None:
    target_std = case.losses.target_moments.standard_deviation().item()
    prediction_std = case.losses.prediction_moments.standard_deviation().item()
    assert target_std == pytest.approx(case.expected["target_std"], rel=RTOL)
    assert prediction_std == pytest.approx(case.expected["prediction_std"], rel=RTOL)


def test_losses__gradient_norm_of_every_parameter(case: Case) -> None:
    trainable = {n: p for n, p in case.module.named_parameters() if p.requires_grad}
    norms = {published_name(name): parameter.grad.double().norm().item() for name, parameter in trainable.items()}
    assert norms == pytest.approx(case.expected["gradient_norms"], rel=RTOL)
    total = np.sqrt(sum(norm**2 for norm in norms.values()))
    assert total == pytest.approx(case.expected["gradient_norm"], rel=RTOL)


def test_student__encoded_tokens(case: Case) -> None:
    tokens = torch.cat(case.encoded)
    assert_subsampled(case.numbers, "student_encoder_patches_sorted_by_patch_id", tokens[:, 1:])
    np.testing.assert_allclose(tokens[:, 0, :32], case.numbers["student_encoder_cls__head"], rtol=RTOL, atol=2e-5)


def test_decoder__output(case: Case) -> None:
    assert_subsampled(case.numbers, "decoder_output", torch.cat(case.decoded))


def test_student__features_of_a_whole_clip(case: Case) -> None:
    if case.expected["stage"] == 2:
        pytest.skip("the published second stage cannot extract features, so there are no numbers")
    with torch.no_grad():
        tokens = case.module.student(case.features)
    assert_subsampled(case.numbers, "extract_features_student_with_cls", tokens)


def test_teacher__targets(case: Case) -> None:
    targets = case.module.teach(case.features, case.stage)
    embedded = case.module.teacher.encoder.embed(case.features)
    tokens = case.module.teacher.encoder.prepare_tokens(embedded)
    cls_target = targets.cls_BPD.mean(dim=1).numpy()
    np.testing.assert_allclose(cls_target, case.numbers["cls_target_full"][:CLIPS], rtol=RTOL, atol=2e-5)
    if case.expected["stage"] == 1:
        assert_subsampled(case.numbers, "teacher_block0_input_postnorm", tokens)
        assert_subsampled(case.numbers, "targets_patch_topk", targets.patch_BPD)
    else:
        numbers = {name: case.numbers[name][:CLIPS] for name in case.numbers if name.startswith(("teacher", "targets"))}
        assert_subsampled(numbers, "teacher_block0_input_postnorm", tokens)
        assert_subsampled(numbers, "targets_orig_patch_topk", targets.patch_BPD)
        assert_subsampled(numbers, "targets_orig_cls_last1", targets.cls_BPD)


def test_mixtures__features_targets_and_source_retention(case: Case) -> None:
    if case.expected["stage"] == 1:
        pytest.skip("stage 1 has no mixtures")
    module, numbers = case.module, case.numbers
    mixture = module.mixing(case.features, 16, torch.Generator())
    assert len(mixture.mixed_columns) == 34
    np.testing.assert_allclose(mixture.features.flatten(1)[:, :32], numbers["mixed_spec__head"], rtol=RTOL)
    np.testing.assert_allclose(mixture.features.flatten(1).sum(1), numbers["mixed_spec__rowsum"], rtol=RTOL)
    targets = module.teach(mixture.features, case.stage)
    of_mixtures = {name: numbers[name][CLIPS:] for name in numbers if name.startswith("targets_orig")}
    assert_subsampled(of_mixtures, "targets_orig_patch_topk", targets.patch_BPD)
    assert_subsampled(of_mixtures, "targets_orig_cls_last1", targets.cls_BPD)
    own = module.teach(case.features, case.stage)
    retained, _ = module.retain_sources(own, mixture, module.stages[-1])
    assert_subsampled(numbers, "target_mix_source_retention", retained)


MISC = SimpleNamespace(
    json=json.loads((REFERENCE / "sslam_misc.json").read_text()), npz=np.load(REFERENCE / "sslam_misc.npz")
)


@pytest.mark.parametrize("recipe", ["stage1_cfg", "stage2_cfg", "finetune_as20k", "finetune_as20k_block0"])
def test_warmup_cosine__learning_rate_by_step(recipe: str) -> None:
    whole = MISC.json["lr"]["finetune_as20k" if "block0" in recipe else recipe]
    expected = MISC.json["lr"][recipe]
    for step, value in expected["values"].items():
        # The published schedule restarts when it has run out; no update has that number.
        if int(step) < whole["max_update"]:
            got = warmup_cosine(int(step), expected["lr"], whole["warmup"], whole["max_update"], floor=whole["min_lr"])
            assert got == pytest.approx(value, rel=RTOL, abs=1e-16), step


def test_ema_decay_at__decay_by_step() -> None:
    expected = MISC.json["ema_decay"]
    for step, value in expected["values"].items():
        got = ema_decay_at(int(step), expected["start"], expected["end"], expected["anneal_end_step"])
        assert 1 - got == pytest.approx(1 - value, rel=RTOL), step
