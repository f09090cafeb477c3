"""Partial mixtures of clips.

Shape letters: B clips, L frames, F mel bins.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sslam.checks import within


class PartialMixture(NamedTuple):
    """Mixtures and where they are mixed.

    Attributes:
        features: Mixed features, shape (B, L, F).
        mixed_columns: Columns of patches in which two clips sound, shape (number mixed,), ascending int64, on the CPU.
    """

    features: Tensor
    mixed_columns: Tensor


def partner_of(batch: Tensor) -> Tensor:
    """The partner of clip i is clip i - 1 of the local batch; of the first, the last."""
    return batch.roll(1, dims=0)


class PartialMixing:
    """Mixes each clip with its partner except in two windows, where the clip stays alone (SSLAM sec. 3.2).

    The mixture is the element-wise maximum of the normalised log-mels. Both windows are whole columns of patches; one
    draw serves the whole batch. In 1024 frames each window has 240 frames; the first starts at 0, 16, ... 496 and the
    second between the end of the first and frame 768. Other lengths scale in proportion.

    Args:
        window_fraction: Length of one window over the length of the clip, in (0, 0.25); the published 240 / 1024.

    Raises:
        ValueError: If the fraction is out of its range.
    """

    def __init__(self, window_fraction: float = 240 / 1024) -> None:
        within(0, 0.25, "()", window_fraction=window_fraction)
        self.window_fraction = window_fraction

    def draw_windows(self, num_columns: int, generator: torch.Generator) -> tuple[int, int, int]:
        """First column of either window, and the columns of one window.

        Raises:
            ValueError: If the clip is too short for two windows.
        """
        length = int(num_columns * self.window_fraction)
        if length < 1:
            raise ValueError(
                f"A clip of {num_columns} columns of patches is too short for two unmixed windows of "
                f"{self.window_fraction:.3f} of its length. Use longer clips."
            )
        first = int(torch.randint(num_columns // 2, (), generator=generator))
        second = int(torch.randint(first + length, num_columns - length, (), generator=generator))
        return first, second, length

    def __call__(self, features_BLF: Tensor, patch_size: int, generator: torch.Generator) -> PartialMixture:
        """Mix a batch of normalised features (B, L, F).

        Args:
            features_BLF: Features of two clips or more.
            patch_size: Frames in a column of patches.
            generator: Generator on the CPU, so that drawing the windows never waits for the device.

        Raises:
            ValueError: If there is one clip only, or the clip is too short.
        """
        if len(features_BLF) < 2:
            raise ValueError("Mixtures need a partner for each clip, got a batch of 1. Use a batch_size of at least 2.")
        num_columns = features_BLF.shape[1] // patch_size
        first, second, length = self.draw_windows(num_columns, generator)
        return self.mix(features_BLF, patch_size, first, second, length)

    @staticmethod
    def mix(features_BLF: Tensor, patch_size: int, first: int, second: int, length: int) -> PartialMixture:
        """Mix with given windows, in columns of patches."""
        columns = torch.arange(features_BLF.shape[1] // patch_size)
        alone = ((columns >= first) & (columns < first + length)) | ((columns >= second) & (columns < second + length))
        mixture_BLF = torch.maximum(features_BLF, partner_of(features_BLF))
        for start in (first, second):
            window = slice(start * patch_size, (start + length) * patch_size)
            mixture_BLF[:, window] = features_BLF[:, window]
        return PartialMixture(mixture_BLF, columns[~alone])
