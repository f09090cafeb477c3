"""Fine-tuning agrees with the published code (SSLAM commit 0a3c0fff), from features to learning rates."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from sslam.frontends import KaldiFbank
from sslam.losses import LabelNormalisedBCE
from sslam.methods import FineTune
from sslam.networks import AudioViT
from sslam.optim import PEAK
from sslam.transforms import Augmentation
from sslam.transforms.augmentation import mix_up
from tests.reference.formulas import input_formula, published_name, weight_formula

REFERENCE = Path(__file__).parents[1] / "reference"
RTOL = 1e-4


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((REFERENCE / "sslam_fine_tune.json").read_text())
    return numbers


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(np.load(REFERENCE / "sslam_fine_tune.npz"))


def published_classifier_name(name: str) -> str:
    """Of a tensor of FineTune in a published fine-tuned checkpoint."""
    return "model." + published_name(name) if name.startswith("encoder.") else name


@pytest.fixture(scope="module")
def model() -> FineTune:
    """The published base size with formula weights, in evaluation mode."""
    model = FineTune(
        Augmentation(), frontend=KaldiFbank(), loss=LabelNormalisedBCE(), num_classes=527, encoder=AudioViT()
    )
    model.load_state_dict(
        {
            name: torch.from_numpy(weight_formula(published_classifier_name(name), tuple(value.shape)))
            for name, value in model.state_dict().items()
        }
    )
    return model.eval()


def features(frames: int = 1024) -> torch.Tensor:
    return torch.from_numpy(input_formula(2, frames)).squeeze(1)


@pytest.mark.slow
def test_fine_tune__logits_and_loss_are_the_published_ones(
    model: FineTune, published: dict[str, Any], golden: dict[str, Any]
) -> None:
    with torch.no_grad():
        logits = model(features())
    np.testing.assert_allclose(logits, golden["logits"], rtol=RTOL, atol=1e-5)
    np.testing.assert_allclose(model.loss.log_probabilities(logits).exp(), golden["predictions"], rtol=RTOL)
    labels = torch.from_numpy(golden["labels"]).float()
    expected = published["eval"]["loss_sum"] / published["eval"]["sample_size"]
    assert model.loss(logits, labels).item() == pytest.approx(expected, rel=RTOL)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "suffix"), [(1024, ""), (512, "_T512"), (128, "_T128")])
@torch.no_grad()
def test_fine_tune__features_of_every_published_length(
    model: FineTune, published: dict[str, Any], golden: dict[str, Any], frames: int, suffix: str
) -> None:
    tokens = model.encoder(features()[:, :frames])
    expected = published[f"features{suffix}"]
    assert list(tokens.shape) == expected["shape"]
    assert tokens.norm().item() == pytest.approx(expected["l2"], rel=RTOL)
    np.testing.assert_allclose(tokens[:, 0], golden[f"features_cls{suffix}"], rtol=RTOL, atol=1e-5)


@pytest.mark.slow
def test_fine_tune__gradients_are_the_published_ones(
    model: FineTune, published: dict[str, Any], golden: dict[str, Any]
) -> None:
    labels = torch.from_numpy(golden["labels"]).float()
    loss = model.loss(model(features()), labels)
    loss.backward()
    assert loss.item() == pytest.approx(published["train_nodrop"]["loss_over_sample_size"], rel=RTOL)
    norms = {
        published_classifier_name(name): value.grad.double().norm().item()
        for name, value in model.named_parameters()
        if value.grad is not None
    }
    expected = {name: norm for name, norm in published["train_nodrop"]["grad_norms"].items() if norm is not None}
    assert len(expected) > 30
    assert {name: norms[name] for name in expected} == pytest.approx(expected, rel=RTOL)
    model.zero_grad()


def test_fine_tune__learning_rate_of_every_parameter_at_every_step(model: FineTune, published: dict[str, Any]) -> None:
    groups = model.configure_optimizers().param_groups
    peaks = {id(parameter): group[PEAK] for group in groups for parameter in group["params"]}
    with mock.patch.object(FineTune, "trainer", SimpleNamespace(estimated_stepping_batches=40_000)):
        for step, expected in published["learning_rate"].items():
            rates = {
                published_classifier_name(name): model.learning_rate_at(int(step), peaks[id(parameter)])
                for name, parameter in model.named_parameters()
            }
            assert {name: rates[name] for name in expected} == pytest.approx(expected, rel=RTOL)


def test_fine_tune__drop_path_rises_as_published(published: dict[str, Any]) -> None:
    blocks = AudioViT(width=16, num_heads=2, drop_path=0.1).blocks
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx(published["drop_path"])


def test_mix_up__is_the_published_one(published: dict[str, Any], golden: dict[str, Any]) -> None:
    expected = published["mixup"]
    share = expected["draws"]["beta"]
    mixed = mix_up(features(), share)
    assert mixed.norm().item() == pytest.approx(expected["x_l2"], rel=RTOL)
    assert mixed.mean().item() == pytest.approx(expected["x_mean"], rel=RTOL)
    labels = mix_up(torch.from_numpy(golden["labels"]).float(), share)[0]
    assert {str(i): labels[i].item() for i in labels.nonzero()[:, 0].tolist()} == pytest.approx(
        expected["lab_row0_nonzero"], rel=RTOL
    )
