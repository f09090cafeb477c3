"""What a block of TDCN++ does to each channel, between its two dense layers, as one autograd function.

Written with a library call per step and left to autograd, this takes two thirds of a training step's time on a CPU and
most of its memory: each step reads and writes the whole activations and keeps its input for the backward pass. Here the
backward pass computes the steps again from what came in, the only thing kept. On a CPU the steps are compiled.

Shape letters: B clips, H channels, R rows (clips x channels), L frames.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-3  # added to the variance


class NormParameters(NamedTuple):
    """Scalars, each of shape (1,), that all channels share: of the PReLU, then gain and bias of the norm after it."""

    slope: Tensor
    gain: Tensor
    bias: Tensor


class Normed(NamedTuple):
    """Output (R, L) of PReLU and norm, with what its backward pass needs."""

    output_RL: Tensor
    active_RL: Tensor
    mean: Tensor
    rstd: Tensor


def norm_conv_norm(
    input_BHL: Tensor,
    norm1: NormParameters,
    weight_H3: Tensor,
    bias_H: Tensor,
    dilation: int,
    norm2: NormParameters,
) -> Tensor:
    """PReLU, norm, dilated depthwise convolution, PReLU, norm.

    A norm gives each clip's channel zero mean and unit (biased) variance over its frames, then gain and bias. The
    convolution is ``conv1d(x, weight[:, None], bias, padding=dilation, dilation=dilation, groups=H)``.

    Args:
        input_BHL: Shape (B, H, L), any float dtype; computed in float32 at least.
        norm1: Parameters of the first PReLU and norm.
        weight_H3: Taps for the frames ``t - dilation``, ``t`` and ``t + dilation``, shape (H, 3).
        bias_H: Bias of the convolution, shape (H,).
        dilation: Dilation in frames, at least 1.
        norm2: Parameters of the second PReLU and norm.

    Returns:
        Shape and dtype of the input.
    """
    clips, _, frames = input_BHL.shape
    dtype = torch.promote_types(input_BHL.dtype, torch.float32)
    norms = torch.cat([*norm1, *norm2]).to(dtype)
    weight_R3, bias_R1 = weight_H3.to(dtype).repeat(clips, 1), bias_H.to(dtype).repeat(clips).unsqueeze(1)
    function = CompiledNormConvNorm if input_BHL.device.type == "cpu" else LibraryNormConvNorm
    with torch.autocast(input_BHL.device.type, enabled=False):
        input_RL = input_BHL.reshape(-1, frames).contiguous()
        output_RL: Tensor = function.apply(input_RL, weight_R3, bias_R1, norms, dilation)
    return output_RL.view(input_BHL.shape)


class CompiledNormConvNorm(torch.autograd.Function):
    """On a CPU: rows (R, L), taps (R, 3), bias (R, 1), slope, gain and bias of both norms (6,), dilation."""

    @staticmethod
    def forward(ctx: Any, input_RL: Tensor, weight_R3: Tensor, bias_R1: Tensor, norms: Tensor, dilation: int) -> Tensor:
        from sslam.networks.tdcn_kernels import forward_rows  # importing Numba takes a second

        ctx.save_for_backward(input_RL, weight_R3, bias_R1, norms)
        ctx.dilation = dilation
        output_RL = torch.empty_like(input_RL, dtype=weight_R3.dtype)
        _share_rows(forward_rows, [output_RL, input_RL.to(weight_R3.dtype), weight_R3, bias_R1], norms, dilation)
        return output_RL.to(input_RL.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_RL: Tensor) -> tuple[Tensor | None, ...]:
        from sslam.networks.tdcn_kernels import backward_rows

        input_RL, weight_R3, bias_R1, norms = ctx.saved_tensors
        dtype = weight_R3.dtype
        input_gradient_RL = torch.empty_like(input_RL, dtype=dtype)
        gradients = [input_gradient_RL, torch.empty_like(weight_R3), torch.empty_like(bias_R1)]
        norms_gradient_R6 = weight_R3.new_empty(len(input_RL), 6)
        given = [gradient_RL.to(dtype).contiguous(), input_RL.to(dtype), weight_R3, bias_R1]
        _share_rows(backward_rows, [*gradients, norms_gradient_R6, *given], norms, ctx.dilation)
        return input_gradient_RL.to(input_RL.dtype), *gradients[1:], norms_gradient_R6.sum(dim=0), None


def _share_rows(kernel: Callable[..., None], by_row: list[Tensor], norms: Tensor, dilation: int) -> None:
    """Run a kernel on contiguous arrays of rows, in as many threads as PyTorch has."""
    num_rows = len(by_row[0])
    size = -(-num_rows // torch.get_num_threads())
    shares = [[array[start : start + size].numpy() for array in by_row] for start in range(0, num_rows, size)]
    # The number added to the variance has the rows' precision, as what is computed with it.
    settings = (norms.numpy(), norms.numpy().dtype.type(EPS), dilation)
    if len(shares) == 1:
        kernel(*shares[0], *settings)
        return
    with ThreadPoolExecutor(len(shares)) as pool:
        for future in [pool.submit(kernel, *share, *settings) for share in shares]:
            future.result()


class LibraryNormConvNorm(torch.autograd.Function):
    """The same on any device."""

    @staticmethod
    def forward(ctx: Any, input_RL: Tensor, weight_R3: Tensor, bias_R1: Tensor, norms: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(input_RL, weight_R3, bias_R1, norms)
        ctx.dilation = dilation
        first = _normalise(input_RL.to(weight_R3.dtype), norms[:3])
        convolved_RL = _convolve(first.output_RL, weight_R3, dilation).add_(bias_R1)
        return _normalise(convolved_RL, norms[3:]).output_RL.to(input_RL.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_RL: Tensor) -> tuple[Tensor | None, ...]:
        input_RL, weight_R3, bias_R1, norms = ctx.saved_tensors
        # Forward again, then back through the same steps.
        wide_RL = input_RL.to(weight_R3.dtype)
        first = _normalise(wide_RL, norms[:3])
        convolved_RL = _convolve(first.output_RL, weight_R3, ctx.dilation).add_(bias_R1)
        second = _normalise(convolved_RL, norms[3:])
        gradient_RL, norm2_gradient = _normalise_backward(gradient_RL, convolved_RL, second, norms[3:])
        bias_gradient_R1 = gradient_RL.sum(dim=1, keepdim=True)
        weight_gradient_R3 = _taps_gradient(gradient_RL, first.output_RL, ctx.dilation)
        gradient_RL = _convolve(gradient_RL, weight_R3.flip(1), ctx.dilation)
        gradient_RL, norm1_gradient = _normalise_backward(gradient_RL, wide_RL, first, norms[:3])
        norms_gradient = torch.cat([norm1_gradient, norm2_gradient])
        return gradient_RL.to(input_RL.dtype), weight_gradient_R3, bias_gradient_R1, norms_gradient, None


def _normalise(input_RL: Tensor, slope_gain_bias: Tensor) -> Normed:
    rows, frames = input_RL.shape
    active_RL = F.prelu(input_RL, slope_gain_bias[:1])
    # Every row is a group of its own.
    gain_R, bias_R = slope_gain_bias[1:, None].expand(2, rows).contiguous()
    output, mean, rstd = torch.native_group_norm(active_RL[None], gain_R, bias_R, 1, rows, frames, rows, EPS)
    return Normed(output[0], active_RL, mean, rstd)


def _normalise_backward(
    gradient_RL: Tensor, input_RL: Tensor, normed: Normed, slope_gain_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the input (R, L) and of slope, gain and bias (3,)."""
    rows, frames = input_RL.shape
    gradient_RL, gain_gradient_R, bias_gradient_R = torch.ops.aten.native_group_norm_backward(
        gradient_RL.to(input_RL.dtype).contiguous()[None],  # as group norm assumes without a check
        normed.active_RL[None],
        normed.mean,
        normed.rstd,
        slope_gain_bias[1].expand(rows).contiguous(),
        1,
        rows,
        frames,
        rows,
        [True, True, True],
    )
    gradient_RL = gradient_RL[0]
    # Minus the gradient at negative inputs, 0 elsewhere; far cheaper than a mask and torch.where.
    lost_RL = torch.ops.aten.threshold_backward(gradient_RL, input_RL, 0.0).sub_(gradient_RL)
    gradient_RL.addcmul_(lost_RL, 1 - slope_gain_bias[0])
    slope_gradient = lost_RL.mul_(input_RL).sum().neg()
    return gradient_RL, torch.stack([slope_gradient, gain_gradient_R.sum(), bias_gradient_R.sum()])


def _convolve(input_RL: Tensor, weight_R3: Tensor, dilation: int) -> Tensor:
    before_R1, centre_R1, after_R1 = weight_R3.split(1, dim=1)
    output_RL = input_RL * centre_R1
    output_RL[:, dilation:].addcmul_(input_RL[:, :-dilation], before_R1)
    output_RL[:, :-dilation].addcmul_(input_RL[:, dilation:], after_R1)
    return output_RL


def _taps_gradient(gradient_RL: Tensor, input_RL: Tensor, dilation: int) -> Tensor:
    before_R = (gradient_RL[:, dilation:] * input_RL[:, :-dilation]).sum(dim=1)
    centre_R = (gradient_RL * input_RL).sum(dim=1)
    after_R = (gradient_RL[:, :-dilation] * input_RL[:, dilation:]).sum(dim=1)
    return torch.stack([before_R, centre_R, after_R], dim=1)
