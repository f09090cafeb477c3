"""TDCN++, the separation network of MixIT (Kavalerov et al. 2019, Wisdom et al. 2020) as the authors' code computes it.

Shape letters: B clips, N sources, T samples, L frames, E basis functions, D width, H hidden width.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from sslam.networks.separator import Consistency
from sslam.networks.tdcn_blocks import dense
from sslam.networks.tdcn_masking import MaskingTDCN


class TDCN(MaskingTDCN):
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

    encoder: nn.Linear
    decoder: nn.Linear

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
        super().__init__(
            num_sources,
            sample_rate,
            consistency,
            num_basis,
            window_length=round(0.0025 * sample_rate),
            hop_length=round(0.00125 * sample_rate),
            learns_basis=True,
            width=width,
            hidden_width=hidden_width,
            num_blocks=num_blocks,
            dilation_cycle=dilation_cycle,
            checkpoint_blocks=checkpoint_blocks,
        )
        self.min_samples = self.window_length - self.hop_length + 1

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

    def decode(self, code_BNEL: Tensor, num_samples: int) -> Tensor:
        """Masked codes (B, N, E, L) to waveforms (B, N, T), by overlap-add."""
        frames = dense(code_BNEL.flatten(0, 1), self.decoder.weight)
        length = (code_BNEL.shape[-1] - 1) * self.hop_length + self.window_length
        added = F.fold(frames, (1, length), kernel_size=(1, self.window_length), stride=(1, self.hop_length))
        return added[:, 0, 0, :num_samples].unflatten(0, code_BNEL.shape[:2])
