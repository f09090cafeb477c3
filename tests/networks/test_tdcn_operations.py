"""The fused operation against the same steps as library calls, forward and backward."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslam.networks import tdcn_operations
from sslam.networks.tdcn_operations import NormParameters, norm_conv_norm


def step_by_step(
    x: Tensor, norm1: NormParameters, weight: Tensor, bias: Tensor, dilation: int, norm2: NormParameters
) -> Tensor:
    def normalise(x: Tensor, norm: NormParameters) -> Tensor:
        x = torch.where(x > 0, x, norm.slope * x)
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return norm.gain * (x - mean) / torch.sqrt(variance + 1e-3) + norm.bias

    x = F.conv1d(normalise(x, norm1), weight[:, None], bias, padding=dilation, dilation=dilation, groups=x.shape[1])
    return normalise(x, norm2)


def arguments(clips: int, channels: int, frames: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(clips, channels, frames), (1,), (1,), (1,), (channels, 3), (channels,), (1,), (1,), (1,)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def call(operation: object, tensors: list[Tensor], dilation: int) -> Tensor:
    x, slope1, gain1, bias1, weight, bias, slope2, gain2, bias2 = tensors
    norm1, norm2 = NormParameters(slope1, gain1, bias1), NormParameters(slope2, gain2, bias2)
    return operation(x, norm1, weight, bias, dilation, norm2)  # type: ignore[operator]


@pytest.fixture(params=["compiled", "library"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a CPU, and there too what runs on a GPU."""
    if request.param == "library":
        monkeypatch.setattr(tdcn_operations, "CompiledNormConvNorm", tdcn_operations.LibraryNormConvNorm)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("frames", [1, 2, 5, 40, 129])
@pytest.mark.parametrize("dilation", [1, 4, 128])
def test_norm_conv_norm__matches_the_steps(frames: int, dilation: int) -> None:
    tensors = arguments(3, 7, frames)
    fused, expected = call(norm_conv_norm, tensors, dilation), call(step_by_step, tensors, dilation)
    torch.testing.assert_close(fused, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn(fused.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for gradient, wanted in zip(
        torch.autograd.grad(fused, tensors, direction), torch.autograd.grad(expected, tensors, direction), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("num_threads", [1, 2, 4, 100])
def test_norm_conv_norm__any_number_of_threads_gives_the_same(
    num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = arguments(3, 7, 50)
    results = []
    for threads in (1, num_threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        output = call(norm_conv_norm, tensors, 4)
        results.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    for one, many in zip(*results, strict=True):
        assert torch.equal(one, many)


@pytest.mark.usefixtures("_both_ways")
def test_norm_conv_norm__channels_last_and_expanded_gradients_are_the_same() -> None:
    tensors = arguments(1, 7, 50)
    turned = [tensors[0].detach().mT.contiguous().mT.requires_grad_(), *tensors[1:]]
    assert not turned[0].is_contiguous()
    for operands in zip(
        *(torch.autograd.grad(call(norm_conv_norm, given, 4).sum(), given) for given in (tensors, turned)), strict=True
    ):
        torch.testing.assert_close(*operands, rtol=1e-12, atol=1e-12)


def test_norm_conv_norm__long_rows_keep_their_precision_and_nan_stays_nan() -> None:
    tensors = arguments(1, 2, 500_000, torch.float32)
    shifted = [(tensors[0] + 30).detach(), *tensors[1:]]
    expected = call(step_by_step, [tensor.double() for tensor in shifted], 4)
    torch.testing.assert_close(call(norm_conv_norm, shifted, 4).double(), expected, rtol=0, atol=2e-4)
    shifted[0][0, 0, 1234] = torch.nan
    output = call(norm_conv_norm, shifted, 4)
    assert output[0, 0].isnan().all()
    assert output[0, 1].isfinite().all()


@pytest.mark.usefixtures("_both_ways")
def test_norm_conv_norm__gradients_are_the_numerical_ones() -> None:
    tensors = arguments(2, 3, 11)
    assert torch.autograd.gradcheck(lambda *given: call(norm_conv_norm, list(given), 2), tensors)


@pytest.mark.usefixtures("_both_ways")
def test_norm_conv_norm__bfloat16_is_computed_in_float32() -> None:
    tensors = arguments(2, 8, 200, torch.float32)
    rounded = [tensors[0].detach().bfloat16().requires_grad_(), *tensors[1:]]
    output = call(norm_conv_norm, rounded, 4)
    assert output.dtype == torch.bfloat16
    expected = call(norm_conv_norm, [rounded[0].float(), *tensors[1:]], 4)
    assert torch.equal(output, expected.bfloat16())
    gradient = torch.autograd.grad(output.float().square().mean(), rounded)
    assert [g.dtype for g in gradient] == [torch.bfloat16] + [torch.float32] * 8


@pytest.mark.usefixtures("_both_ways")
def test_norm_conv_norm__constant_rows_give_the_bias() -> None:
    tensors = arguments(1, 4, 30)
    tensors[0] = torch.full((1, 4, 30), 7.0, dtype=torch.float64)
    tensors[4] = torch.zeros(4, 3, dtype=torch.float64)
    torch.testing.assert_close(call(norm_conv_norm, tensors, 2), tensors[8].expand(1, 4, 30))


@pytest.mark.slow
def test_norm_conv_norm__compiled_now_or_before_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    # A run that goes on has the code from the cache, and its first part compiled it.
    script = (
        "import torch; from sslam.networks import TDCN\n"
        "torch.manual_seed(0); separator = TDCN(num_basis=12, width=8, hidden_width=10, num_blocks=3)\n"
        "estimates = separator(torch.randn(1, 9000)); estimates.square().sum().backward()\n"
        "print(estimates.double().sum().item(), *(p.grad.double().sum().item() for p in separator.parameters()))"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert first == second
