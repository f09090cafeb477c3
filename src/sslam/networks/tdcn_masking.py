"""What TDCN++ is over any basis: blocks of dilated convolutions that find a mask for each source.

Shape letters: B clips, N sources, T samples, L frames, E basis functions, D width.
"""

from abc import ABC, abstractmethod
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sslam.checks import at_least, at_most
from sslam.networks.separator import Consistency, Separator, mixture_consistency, power_shares
from sslam.networks.tdcn_blocks import ScaledDense, TDCNBlock, dense

MAX_DILATION_CYCLE = 32  # its longest dilation is a quarter of a million seconds


class MaskingTDCN(Separator, ABC):
    """Base of the TDCN++ networks, which encode the mixture, mask its code for each source and decode the products.

    Args:
        num_sources: Number N of sources.
        sample_rate: Sample rate in Hz.
        consistency: Way to make the estimates add up to the mixture; see :class:`~sslam.networks.TDCN`.
        num_basis: Number E of basis functions.
        window_length: Samples of a frame.
        hop_length: Samples from one frame to the next.
        learns_basis: Whether there are dense layers `encoder` and `decoder` between a frame and its code.
        width: Channels D between the blocks.
        hidden_width: Channels H inside a block.
        num_blocks: Number of blocks.
        dilation_cycle: Number of blocks over which the dilation doubles from one to the next, to start again at 1.
        checkpoint_blocks: Whether to keep only the blocks' inputs for the backward pass and compute the rest again.

    Raises:
        ValueError: If a size is less than 1, the sample rate below 1600 Hz, the dilation cycle longer than 32, or the
            consistency unknown.
    """

    def __init__(
        self,
        num_sources: int,
        sample_rate: int,
        consistency: Consistency,
        num_basis: int,
        window_length: int,
        hop_length: int,
        learns_basis: bool,
        width: int,
        hidden_width: int,
        num_blocks: int,
        dilation_cycle: int,
        checkpoint_blocks: bool,
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
        self.window_length = window_length
        self.hop_length = hop_length
        self.width = width
        self.hidden_width = hidden_width
        self.dilation_cycle = dilation_cycle
        self.checkpoint_blocks = checkpoint_blocks
        self.encoder = nn.Linear(window_length, num_basis, bias=False) if learns_basis else None
        self.bottleneck = ScaledDense(num_basis, width, bias=True)
        self.blocks = nn.ModuleList(
            TDCNBlock(width, hidden_width, dilation=2 ** (number % dilation_cycle), scale=0.9**number)
            for number in range(num_blocks)
        )
        self.mask = nn.Linear(width, num_sources * num_basis, bias=False)
        self.decoder = nn.Linear(num_basis, window_length, bias=False) if learns_basis else None
        self.shares = nn.Linear(width, num_sources, bias=False) if consistency == "pred_source" else None
        for linear in (self.encoder, self.mask, self.decoder, self.shares):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)

    @abstractmethod
    def encode(self, mixture_BT: Tensor) -> Tensor:
        """Waveforms (B, T) to codes (B, E, L)."""

    @abstractmethod
    def decode(self, code_BNEL: Tensor, num_samples: int) -> Tensor:
        """Masked codes (B, N, E, L) to waveforms (B, N, T)."""

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
