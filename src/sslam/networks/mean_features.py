"""The features themselves as an encoder: the baseline that any learnt one must beat.

Shape letters: B clips, L frames, F mel bins.
"""

import torch
from torch import Tensor, nn

from sslam.checks import at_least
from sslam.networks.audio_vit import Encoder


class MeanFeatures(Encoder):
    """An encoder without weights, whose tokens are the frames and whose first token is their mean.

    With :class:`~sslam.frontends.LogMel` it is the log-mel baseline of Fonseca et al. 2021 (table 1). How the paper
    pools its baseline it does not say: the mean over time is ours.

    Args:
        num_mel_bins: Mel bins F of the features, and so the width of a token.

    Raises:
        ValueError: If there is no mel bin.
    """

    def __init__(self, num_mel_bins: int = 64) -> None:
        super().__init__()
        at_least(1, num_mel_bins=num_mel_bins)
        self.width = self.num_mel_bins = num_mel_bins
        self.patch_size = self.num_rows = 1
        self.depth = 0
        self.blocks = nn.ModuleList()

    def forward(self, features_BLF: Tensor) -> Tensor:
        """Features (B, L, F) to tokens (B, 1 + L, F): their mean over time, then the frames.

        Raises:
            ValueError: If the mel bins differ from ``num_mel_bins``.
        """
        self.check_mel_bins(features_BLF)
        return torch.cat([features_BLF.mean(dim=1, keepdim=True), features_BLF], dim=1)
