"""TDCN++, the separation network of MixIT (Kavalerov et al. 2019, Wisdom et al. 2020) as the authors' code computes it.

Shape letters: B clips, N sources, T samples, L frames, E basis functions, D width, H hidden width.
"""

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sslam.checks import at_least, at_most
from sslam.networks.tdcn_operations import NormParameters, norm_conv_norm
from sslam.rebuildable import Rebuildable

Consistency = Literal["pred_source", "magsq", "uniform", "none"]
MAX_DILATION_CYCLE = 32  # its longest dilation is a quarter of a million seconds


class Separator(Rebuildable):
    """Base of every separation network that a method can be given.

    Attributes:
        num_sources: Number N of sources that it puts out, silent ones included.
        sample_rate: Sample rate of its input and output in Hz.
        min_samples: Length of the shortest clip it takes.
    """

    num_sources: int
    sample_rate: int
    min_samples: int

    def forward(self, mixture_BT: Tensor) -> Tensor:
        """Mixtures (B, T) to estimates of their sources (B, N, T)."""
        raise NotImplementedError


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


class TDCN(Separator):
    """Time-domain separation with learned bases and masks: the "improved" TDCN++ (the defaults are the published ones).

    Frames of the waveform are encoded by a learned basis; blocks of dilated convolutions find one mask per source; the
    masked code is decoded and overlap-added. Every norm runs over the whole clip, so separate whole clips at their true
    length and level: 0.5 s padded with zeros to 1 s come out 27 % different.

    Args:
        num_sources: Number N of sources. Published: 2, 4 and 8.
        sample_rate: Sample rate in Hz; the frames are 2.5 ms long and start every 1.25 ms (16 kHz: 40 and 20 samples,
            22.05 kHz: 55 and 28).
        consistency: Way to make the estimates add up to the mixture by handing out what is missing: "pred_source" in
            shares that the network predicts, "magsq" in proportion to the estimates' power, "uniform" in equal shares,
            "none" not at all.
        num_basis: Number E of basis functions.
        width: Channels D between the blocks.
        hidden_width: Channels H inside a block.
        num_blocks: Number of blocks.
        dilation_cycle: Number of blocks over which the dilation doubles from one to the next, to start again at 1.
        checkpoint_blocks: Whether to keep only the blocks' inputs for the backward pass and compute the rest again: a
            fifth of what the blocks keep, half of a training step's memory, for a sixth more time.

    Raises:
        ValueError: If a size is less than 1, the sample rate too low for a frame, the dilation cycle longer than 32, or
            the consistency unknown.
    """

    def __init__(
        self,
        num_sources: int = 2,
        sample_rate: int = 16_000,
        consistency: Consistency = "pred_source",
        num_basis: int = 256,
        width: int = 256,
        hidden_width: int = 512,
        num_blocks: int = 32,
        dilation_cycle: int = 8,
        checkpoint_blocks: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, num_sources=num_sources, num_basis=num_basis, width=width, hidden_width=hidden_width)
        at_least(1, num_blocks=num_blocks, dilation_cycle=dilation_cycle)
        at_least(1600, sample_rate=sample_rate)  # so that a frame has samples
        at_most(MAX_DILATION_CYCLE, dilation_cycle=dilation_cycle)
        if consistency not in get_args(Consistency):
            raise ValueError(f"consistency must be one of {', '.join(get_args(Consistency))}, got {consistency!r}.")
        self.num_sources = num_sources
        self.sample_rate = sample_rate
        self.consistency = consistency
        self.num_basis = num_basis
        self.width = width
        self.hidden_width = hidden_width
        self.dilation_cycle = dilation_cycle
        self.checkpoint_blocks = checkpoint_blocks
        self.window_length = round(0.0025 * sample_rate)
        self.hop_length = round(0.00125 * sample_rate)
        self.min_samples = self.window_length - self.hop_length + 1
        self.encoder = nn.Linear(self.window_length, num_basis, bias=False)
        self.bottleneck = ScaledDense(num_basis, width, bias=True)
        self.blocks = nn.ModuleList(
            TDCNBlock(width, hidden_width, dilation=2 ** (number % dilation_cycle), scale=0.9**number)
            for number in range(num_blocks)
        )
        self.mask = nn.Linear(width, num_sources * num_basis, bias=False)
        self.decoder = nn.Linear(num_basis, self.window_length, bias=False)
        self.shares = nn.Linear(width, num_sources, bias=False) if consistency == "pred_source" else None
        for linear in (self.encoder, self.mask, self.decoder, self.shares):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)

    def encode(self, mixture_BT: Tensor) -> Tensor:
        """Waveforms (B, T) to non-negative codes (B, E, L); the last frame is filled up with zeros.

        Raises:
            ValueError: If the clip is too short for a frame.
        """
        num_samples = mixture_BT.shape[-1]
        if num_samples < self.min_samples:
            raise ValueError(
                f"A clip must have at least {self.min_samples} samples to be separated, got {num_samples}. "
                "Leave shorter clips out or pad them."
            )
        num_frames = math.ceil((num_samples - self.window_length) / self.hop_length) + 1
        padding = (num_frames - 1) * self.hop_length + self.window_length - num_samples
        padded_B1T = F.pad(mixture_BT, (0, padding)).unsqueeze(1)
        return F.conv1d(padded_B1T, self.encoder.weight.unsqueeze(1), stride=self.hop_length).relu()

    def core(self, code_BEL: Tensor) -> Tensor:
        """Codes (B, E, L) to the output of the last block (B, D, L)."""
        core_BDL = self.bottleneck(code_BEL)
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                core_BDL = checkpoint(block, core_BDL, use_reentrant=False)
            else:
                core_BDL = block(core_BDL)
        return core_BDL

    def masks(self, core_BDL: Tensor) -> Tensor:
        """Output of the last block (B, D, L) to masks (B, N, E, L) between 0 and 1."""
        logits_BSL = dense(core_BDL, self.mask.weight)
        logits_BSL = logits_BSL.to(torch.promote_types(logits_BSL.dtype, torch.float32))
        return logits_BSL.unflatten(1, (self.num_sources, self.num_basis)).sigmoid()

    def decode(self, code_BNEL: Tensor, num_samples: int) -> Tensor:
        """Masked codes (B, N, E, L) to waveforms (B, N, T), by overlap-add."""
        frames = dense(code_BNEL.flatten(0, 1), self.decoder.weight)
        length = (code_BNEL.shape[-1] - 1) * self.hop_length + self.window_length
        added = F.fold(frames, (1, length), kernel_size=(1, self.window_length), stride=(1, self.hop_length))
        return added[:, 0, 0, :num_samples].unflatten(0, code_BNEL.shape[:2])

    def forward(self, mixture_BT: Tensor) -> Tensor:
        """Mixtures (B, T), any level, to estimates of their sources (B, N, T).

        Raises:
            ValueError: If the clips are shorter than ``min_samples``.
        """
        # Waveforms, masks and what becomes of them in float32, also where autocast gives the blocks less.
        with torch.autocast(mixture_BT.device.type, enabled=False):
            code_BEL = self.encode(mixture_BT)
        core_BDL = self.core(code_BEL)
        masks_BNEL = self.masks(core_BDL)
        with torch.autocast(mixture_BT.device.type, enabled=False):
            estimates_BNT = self.decode(masks_BNEL * code_BEL.unsqueeze(1), mixture_BT.shape[-1])
            return self.make_consistent(estimates_BNT, mixture_BT, core_BDL)

    def architecture(self) -> dict[str, Any]:
        """Constructor arguments but ``checkpoint_blocks``, which changes no result."""
        return {name: value for name, value in super().architecture().items() if name != "checkpoint_blocks"}

    def make_consistent(self, estimates_BNT: Tensor, mixture_BT: Tensor, core_BDL: Tensor) -> Tensor:
        """Estimates whose sum is the mixture; unchanged where ``consistency`` is "none"."""
        if self.consistency == "none":
            return estimates_BNT
        if self.shares is not None:
            shares_BN = self.shares(core_BDL.mean(dim=-1)).softmax(dim=-1)
        elif self.consistency == "magsq":
            shares_BN = power_shares(estimates_BNT)
        else:
            shares_BN = torch.full_like(estimates_BNT[..., 0], 1 / self.num_sources)
        return mixture_consistency(estimates_BNT, mixture_BT, shares_BN)


def mixture_consistency(estimates_BNT: Tensor, mixture_BT: Tensor, shares_BN: Tensor) -> Tensor:
    """Hand out what the estimates lack to the mixture, in shares that add up to 1 (Wisdom et al. 2019): (B, N, T)."""
    missing_BT = mixture_BT - estimates_BNT.sum(dim=1)
    return estimates_BNT + shares_BN.unsqueeze(-1) * missing_BT.unsqueeze(1)


def power_shares(estimates_BNT: Tensor) -> Tensor:
    """Shares (B, N) in proportion to the estimates' power, equal ones where all are silent; with gradient."""
    power_BN = estimates_BNT.square().mean(dim=-1) + 1e-8
    return power_BN / power_BN.sum(dim=1, keepdim=True)
