"""The layers of TDCN++ as the authors' code computes them: dense layers, norms, convolutions, the residual block.

Shape letters: B clips, L frames, D width, H hidden width.
"""

import math

import torch
from torch import Tensor, nn

from sslam.networks.tdcn_operations import NormParameters, norm_conv_norm


def dense(input_BDL: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``weight @ input + bias`` at every frame; convolutions of length 1 are slower in the backward pass on a CPU."""
    output = torch.bmm(weight.expand(len(input_BDL), -1, -1), input_BDL)
    return output if bias is None else output + bias.unsqueeze(-1)


class ScaledDense(nn.Module):
    """Dense layer over channels, ``(weight @ input + bias) * scale``, with a learned scalar scale."""

    def __init__(self, in_width: int, out_width: int, bias: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_width, in_width))
        self.bias = nn.Parameter(torch.zeros(out_width)) if bias else None
        self.scale = nn.Parameter(torch.tensor(scale))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, input_BDL: Tensor) -> Tensor:
        # The scale goes into the weights, which are smaller than the activations.
        return dense(input_BDL, self.weight * self.scale, None if self.bias is None else self.bias * self.scale)


class PReLUNorm(nn.Module):
    """The scalar parameters of a PReLU and the norm over time after it; :func:`norm_conv_norm` applies them."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.1]))
        self.weight = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self) -> NormParameters:
        return NormParameters(self.slope, self.weight, self.bias)


class DepthwiseTaps(nn.Module):
    """The parameters of a depthwise convolution over time with three taps; :func:`norm_conv_norm` applies them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Glorot's bound with the fans that TensorFlow counts for this kernel's shape (3, 1, H, 1).
        bound = math.sqrt(6 / (3 * width + 3))
        self.weight = nn.Parameter(torch.empty(width, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(width))


class TDCNBlock(nn.Module):
    """Residual block: dense, PReLU, norm, dilated depthwise convolution, PReLU, norm, dense.

    Args:
        width: Channels D of the residual stream.
        hidden_width: Channels H inside.
        dilation: Dilation of the convolution, in frames.
        scale: Initial scale of the block's output.
    """

    def __init__(self, width: int, hidden_width: int, dilation: int, scale: float) -> None:
        super().__init__()
        self.dilation = dilation
        self.dense1 = ScaledDense(width, hidden_width)
        self.norm1 = PReLUNorm()
        self.conv = DepthwiseTaps(hidden_width)
        self.norm2 = PReLUNorm()
        self.dense2 = ScaledDense(hidden_width, width, scale=scale)

    def forward(self, core_BDL: Tensor) -> Tensor:
        """The residual stream (B, D, L) before and after the block."""
        hidden_BHL = norm_conv_norm(
            self.dense1(core_BDL), self.norm1(), self.conv.weight, self.conv.bias, self.dilation, self.norm2()
        )
        return core_BDL + self.dense2(hidden_BHL)
