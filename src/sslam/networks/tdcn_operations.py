"""What a block of TDCN++ does to each channel, between its two dense layers, as one autograd function.

Written with a library call per step, this takes two thirds of a training step's time on a CPU and most of its memory:
each step reads and writes the whole activations and keeps its input for the backward pass. Here the backward pass
computes the steps again from what came in, the only thing kept. As every row of frames is treated on its own, a single
thread takes a few rows through all steps while they are in its cache.

Shape letters: B clips, H channels, R rows (clips x channels), L frames.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-3  # added to the variance
# A megabyte of float32: in a core's second-level cache, and large enough that calls cost little beside the work.
CACHED_VALUES = 2**18


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
        norm1: Of the first PReLU and norm.
        weight_H3: Taps for the frames ``t - dilation``, ``t`` and ``t + dilation``, shape (H, 3).
        bias_H: Of the convolution, shape (H,).
        dilation: In frames, at least 1.
        norm2: Of the second PReLU and norm.

    Returns:
        Shape and dtype of the input.
    """
    clips, _, frames = input_BHL.shape
    dtype = torch.promote_types(input_BHL.dtype, torch.float32)
    norms = [parameter.to(dtype) for parameter in (*norm1, *norm2)]
    weight_R3, bias_R1 = weight_H3.to(dtype).repeat(clips, 1), bias_H.to(dtype).repeat(clips).unsqueeze(1)
    with torch.autocast(input_BHL.device.type, enabled=False):
        output_RL: Tensor = _NormConvNorm.apply(input_BHL.reshape(-1, frames), weight_R3, bias_R1, dilation, *norms)
    return output_RL.view_as(input_BHL)


class _NormConvNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input_RL: Tensor, weight_R3: Tensor, bias_R1: Tensor, dilation: int, *norms: Tensor
    ) -> Tensor:
        ctx.save_for_backward(input_RL, weight_R3, bias_R1, *norms)
        ctx.dilation = dilation
        norm1, norm2 = NormParameters(*norms[:3]), NormParameters(*norms[3:])
        output_RL = torch.empty_like(input_RL)
        for rows in _row_blocks(input_RL):
            first = _normalise(input_RL[rows].to(weight_R3.dtype), norm1)
            convolved_RL = _convolve(first.output_RL, weight_R3[rows], dilation).add_(bias_R1[rows])
            output_RL[rows] = _normalise(convolved_RL, norm2).output_RL
        return output_RL

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_RL: Tensor) -> tuple[Tensor | None, ...]:
        input_RL, weight_R3, bias_R1, *norms = ctx.saved_tensors
        norm1, norm2 = NormParameters(*norms[:3]), NormParameters(*norms[3:])
        input_gradient_RL = torch.empty_like(input_RL)
        weight_gradient_R3, bias_gradient_R1 = torch.empty_like(weight_R3), torch.empty_like(bias_R1)
        norm1_gradient, norm2_gradient = weight_R3.new_zeros(3), weight_R3.new_zeros(3)
        for rows in _row_blocks(input_RL):
            weight = weight_R3[rows]
            # Forward again, then back through the same steps.
            block_RL = input_RL[rows].to(weight.dtype)
            first = _normalise(block_RL, norm1)
            convolved_RL = _convolve(first.output_RL, weight, ctx.dilation).add_(bias_R1[rows])
            second = _normalise(convolved_RL, norm2)
            block_gradient_RL, scalars = _normalise_backward(gradient_RL[rows], convolved_RL, second, norm2)
            norm2_gradient += scalars
            bias_gradient_R1[rows] = block_gradient_RL.sum(dim=1, keepdim=True)
            weight_gradient_R3[rows] = _taps_gradient(block_gradient_RL, first.output_RL, ctx.dilation)
            block_gradient_RL = _convolve(block_gradient_RL, weight.flip(1), ctx.dilation)
            input_gradient_RL[rows], scalars = _normalise_backward(block_gradient_RL, block_RL, first, norm1)
            norm1_gradient += scalars
        scalar_gradients = [*norm1_gradient.split(1), *norm2_gradient.split(1)]
        return input_gradient_RL, weight_gradient_R3, bias_gradient_R1, None, *scalar_gradients


def _row_blocks(input_RL: Tensor) -> list[slice]:
    num_rows, frames = input_RL.shape
    # Several threads would wait for each other after every small call, and a GPU would idle: everything at once there.
    one_thread = input_RL.device.type == "cpu" and torch.get_num_threads() == 1
    size = max(1, CACHED_VALUES // frames) if one_thread else num_rows
    return [slice(start, start + size) for start in range(0, num_rows, size)]


def _normalise(input_RL: Tensor, parameters: NormParameters) -> Normed:
    active_RL = F.prelu(input_RL, parameters.slope)
    rows, frames = active_RL.shape
    # Every row is a group of its own.
    gain_R, bias_R = parameters.gain.expand(rows).contiguous(), parameters.bias.expand(rows).contiguous()
    output, mean, rstd = torch.native_group_norm(active_RL[None], gain_R, bias_R, 1, rows, frames, rows, EPS)
    return Normed(output[0], active_RL, mean, rstd)


def _normalise_backward(
    gradient_RL: Tensor, input_RL: Tensor, normed: Normed, parameters: NormParameters
) -> tuple[Tensor, Tensor]:
    """Gradients of the input (R, L) and of slope, gain and bias (3,)."""
    rows, frames = input_RL.shape
    gradient_RL, gain_gradient_R, bias_gradient_R = torch.ops.aten.native_group_norm_backward(
        gradient_RL.to(input_RL.dtype)[None],
        normed.active_RL[None],
        normed.mean,
        normed.rstd,
        parameters.gain.expand(rows).contiguous(),
        1,
        rows,
        frames,
        rows,
        [True, True, True],
    )
    gradient_RL = gradient_RL[0]
    # Minus the gradient at negative inputs, 0 elsewhere; far cheaper than a mask and torch.where.
    lost_RL = torch.ops.aten.threshold_backward(gradient_RL, input_RL, 0.0).sub_(gradient_RL)
    gradient_RL.addcmul_(lost_RL, 1 - parameters.slope)
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
