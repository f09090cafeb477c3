"""TDCN++ against numbers measured on the published code."""

import json
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslam.checkpoints.tensorflow_names import our_separator_name, separator_state
from sslam.losses import mixit_loss, si_snr
from sslam.networks import TDCN
from tests.reference.mixit_formulas import (
    REFERENCE,
    VARIABLES,
    formula_mixtures,
    formula_separator,
    formula_weight,
    training_mixtures,
)

CASES: dict[str, Any] = json.loads((REFERENCE / "mixit_cases.json").read_text())["models"]


def numbers_of(case: str) -> dict[str, np.ndarray]:
    numbers = np.load(REFERENCE / "mixit_models.npz")
    return {name.removeprefix(case + "_"): numbers[name] for name in numbers.files if belongs_to(name, case)}


def belongs_to(name: str, case: str) -> bool:
    longest = max((other for other in CASES if name.startswith(other + "_")), key=len)
    return longest == case


def mixture_of(case: str) -> Tensor:
    mixture = formula_mixtures(2, CASES[case]["samples"])
    if "silent0" in case:
        mixture[0] = 0
    np.testing.assert_allclose(mixture.sum(1), CASES[case]["input_sum"], atol=1e-3)
    return torch.from_numpy(mixture)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, TDCN]:
    facts = CASES[request.param]
    return request.param, formula_separator(facts["num_sources"], facts["consistency"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-10)], ids=["f32", "f64"])
def test_tdcn__estimates_are_the_published_ones(case: tuple[str, TDCN], dtype: torch.dtype, tolerance: float) -> None:
    name, separator = case
    expected = numbers_of(name)
    with torch.no_grad():
        estimates = separator.to(dtype)(mixture_of(name).to(dtype))
    assert estimates.dtype == dtype
    assert estimates.shape == (2, CASES[name]["num_sources"], CASES[name]["samples"])
    np.testing.assert_allclose(estimates[..., ::13], expected["out"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(estimates[..., -40:], expected["out_end"], rtol=0, atol=tolerance)
    # Samples between those.
    np.testing.assert_allclose(estimates.square().sum(-1), expected["out_energy"], rtol=tolerance)


def test_tdcn__every_step_is_the_published_one(case: tuple[str, TDCN]) -> None:
    name, separator = case
    expected = numbers_of(name)
    separator.double()
    mixture = mixture_of(name).double()
    streams: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: streams.append(call[2])) for block in separator.blocks]
    with torch.no_grad():
        code = separator.encode(mixture)
        core = separator.core(code)
        masks = separator.masks(core)
        estimates = separator.decode(masks * code[:, None], mixture.shape[-1])
    for hook in hooks:
        hook.remove()
    frames = CASES[name]["frames"]
    assert code.shape == (2, 256, frames)
    check = {
        "encoder_head": code[:, :16, :8].mT,
        "encoder_tail": code[:, :16, -3:].mT,
        "core_tail": core[:, :16, -3:].mT,
        "core_timemean": core.mean(-1),
        "mask_head": masks[:, :, :8, :4].mT,
        "mask_mean": masks.mean((2, 3)),
        "mask_std": masks.std((2, 3), correction=0),
        "mask_min": masks.amin((2, 3)),
        "mask_max": masks.amax((2, 3)),
        "separated": estimates[..., ::101],
        "all_block_l2": torch.stack([stream.square().sum().sqrt() for stream in streams]),
        "all_block_head": torch.stack([stream[0, :4, :2].T for stream in streams]),
    }
    for step, value in check.items():
        np.testing.assert_allclose(value, expected[step], rtol=1e-9, atol=1e-10, err_msg=step)
    if separator.shares is not None:
        shares = separator.shares(core.mean(-1)).softmax(-1)
        np.testing.assert_allclose(shares.detach(), expected["mix_weights"], rtol=1e-10)


def test_tdcn__number_of_parameters(case: tuple[str, TDCN]) -> None:
    name, separator = case
    num_parameters = sum(parameter.numel() for parameter in separator.parameters())
    assert num_parameters == CASES[name]["parameters"]
    if separator.consistency == "pred_source":
        assert num_parameters == 8_540_673 + 65_792 * separator.num_sources


def test_tdcn__gradient_of_every_parameter_is_the_published_one() -> None:
    # In float64: a basis function whose response is within rounding of 0 moves float32 gradients by up to 1 %.
    expected = json.loads((REFERENCE / "mixit_training.json").read_text())
    separator = formula_separator(num_sources=4).double()
    mixtures = training_mixtures().double()
    loss = mixit_loss(mixtures, separator(mixtures.sum(1))).mean()
    assert loss.item() == pytest.approx(expected["losses"][0], rel=1e-6)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in separator.named_parameters()}
    norms = {name: gradients[str(our_separator_name(name))].norm().item() for name in VARIABLES}
    # The published code computed in float32.
    assert norms == pytest.approx(expected["gradient_norms"], rel=1e-3, abs=3e-5)
    total = math.sqrt(sum(norm**2 for norm in norms.values()))
    assert total == pytest.approx(expected["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_tdcn__four_training_steps_are_the_published_ones(dtype: torch.dtype) -> None:
    expected = json.loads((REFERENCE / "mixit_training.json").read_text())
    separator = formula_separator(num_sources=4).to(dtype)
    before = {name: parameter.detach().clone() for name, parameter in separator.named_parameters()}
    mixtures = training_mixtures().to(dtype)
    optimizer = torch.optim.Adam(separator.parameters(), lr=1e-4)
    losses = []
    for step in range(1, 6):
        loss = mixit_loss(mixtures, separator(mixtures.sum(1))).mean()
        losses.append(loss.item())
        if step == 5:
            break
        optimizer.zero_grad()
        loss.backward()
        # TensorFlow's Adam adds epsilon before the bias correction.
        optimizer.param_groups[0]["eps"] = 1e-8 / math.sqrt(1 - 0.999**step)
        optimizer.step()
    assert losses == pytest.approx(expected["losses"], rel=0, abs=1e-4 * losses[0])
    after = dict(separator.named_parameters())
    changes = {
        name: (after[ours] - before[ours]).norm().item()
        for name, ours in ((name, str(our_separator_name(name))) for name in VARIABLES)
    }
    # Adam divides by the gradient's size, so that scalars whose gradient is rounding move at random: kernels only.
    kernels = [name for name in VARIABLES if name.endswith("kernel")]
    assert [changes[name] for name in kernels] == pytest.approx(
        [expected["parameter_changes"][name] for name in kernels], rel=0.02
    )


def test_tdcn__initial_statistics_are_in_the_published_ranges() -> None:
    draws = json.loads((REFERENCE / "mixit_init.json").read_text())["draws"]
    mixture = torch.from_numpy(formula_mixtures(2, 16_000))
    np.testing.assert_allclose(mixture.square().mean(-1).sqrt(), draws[0]["mix_rms"], rtol=1e-5)
    ours: dict[str, list[float]] = defaultdict(list)
    for seed in range(2):
        torch.manual_seed(seed)
        separator = TDCN()
        with torch.no_grad():
            code = separator.encode(mixture)
            core = separator.core(code)
            masks = separator.masks(core)
            estimates = separator(mixture)
        ours["enc_mean"].append(code.mean().item())
        ours["enc_std"].append(code.std().item())
        ours["core_std"].append(core.std().item())
        ours["mask_mean"].append(masks.mean().item())
        ours["mask_std"].append(masks.std().item())
        for clip in range(2):
            correlations = torch.corrcoef(torch.cat([mixture[clip, None], estimates[clip]]))
            assert correlations[0, 1:].min() > 0.955
            assert correlations[0, 1:].max() < 0.975
            assert 0.84 < correlations[1, 2] < 0.89
        levels = si_snr(mixture[:, None], estimates)
        assert levels.min() > 10.5
        assert levels.max() < 12.5
    for name, values in ours.items():
        published = [draw[name] for draw in draws]
        np.testing.assert_allclose(values, np.mean(published), rtol=0.05, err_msg=name)


def test_tdcn__initial_weights_are_distributed_as_published() -> None:
    published = json.loads((REFERENCE / "mixit_init.json").read_text())["weights"]
    state = TDCN().state_dict()
    for name, expected in published.items():
        weight = state[str(our_separator_name(name))].double()
        assert weight.abs().max().item() == pytest.approx(expected["absmax"], rel=0.02, abs=1e-12), name
        assert weight.std(correction=0).item() == pytest.approx(expected["std"], rel=0.05, abs=1e-12), name


def test_separator_state__loads_into_a_separator_of_another_rate() -> None:
    # The published bird models: 22.05 kHz, frames of 55 samples every 28.
    shapes = VARIABLES | {"conv_encoder/dense/kernel": [55, 256], "conv_decoder/dense_1/kernel": [256, 55]}
    separator = TDCN(sample_rate=22_050)
    weights = {name: torch.from_numpy(formula_weight(name, shape)) for name, shape in shapes.items()}
    separator.load_state_dict(separator_state(weights))
    assert (separator.window_length, separator.hop_length) == (55, 28)
