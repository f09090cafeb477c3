"""Mixtures of clips.

Shape letters: B clips, T columns of patches, L frames, F mel bins.
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


class Mixing:
    """Mixes each clip with its partner in some columns of patches, which are the same in the whole batch.

    Args:
        of_waveforms: Whether two clips are mixed by adding up their waveforms; False takes the element-wise maximum of
            their normalised log-mels, as published (SSLAM, appendix E).
    """

    def __init__(self, of_waveforms: bool = False) -> None:
        self.of_waveforms = of_waveforms

    def draw_mixed(self, num_columns: int, generator: torch.Generator) -> Tensor:
        """Columns that are mixed, bool (T,), on the CPU."""
        raise NotImplementedError

    def __call__(
        self, features_BLF: Tensor, patch_size: int, generator: torch.Generator, summed_BLF: Tensor | None = None
    ) -> PartialMixture:
        """Mix a batch of normalised features (B, L, F).

        Args:
            features_BLF: Features of two clips or more.
            patch_size: Frames in a column of patches.
            generator: Generator on the CPU, so that drawing the columns never waits for the device.
            summed_BLF: Features of each clip's waveform plus its partner's, (B, L, F), where waveforms are mixed.

        Raises:
            ValueError: If there is one clip only, or the clip is too short.
        """
        if len(features_BLF) < 2:
            raise ValueError("Mixtures need a partner for each clip, got a batch of 1. Use a batch_size of at least 2.")
        mixed_T = self.draw_mixed(features_BLF.shape[1] // patch_size, generator)
        return self.mix(features_BLF, patch_size, mixed_T, summed_BLF)

    @staticmethod
    def mix(features_BLF: Tensor, patch_size: int, mixed_T: Tensor, summed_BLF: Tensor | None = None) -> PartialMixture:
        """Mix in given columns, bool (T,), on the CPU."""
        both_BLF = torch.maximum(features_BLF, partner_of(features_BLF)) if summed_BLF is None else summed_BLF
        mixed_L = mixed_T.repeat_interleave(patch_size).to(features_BLF.device, non_blocking=True)
        return PartialMixture(torch.where(mixed_L[:, None], both_BLF, features_BLF), mixed_T.nonzero().flatten())


class FullMixing(Mixing):
    """Mixes each clip with its partner from beginning to end (SSLAM, table 4)."""

    def draw_mixed(self, num_columns: int, generator: torch.Generator) -> Tensor:
        return torch.ones(num_columns, dtype=torch.bool)


class PartialMixing(Mixing):
    """Mixes each clip with its partner except in two windows, where the clip stays alone (SSLAM sec. 3.2).

    Both windows are whole columns of patches; one draw serves the whole batch. In 1024 frames each window has 240
    frames; the first starts at 0, 16, ... 496 and the second between the end of the first and frame 768. Other lengths
    scale in proportion.

    Args:
        window_fraction: Length of one window over the length of the clip, in (0, 0.25); the published 240 / 1024.
        of_waveforms: See :class:`Mixing`.

    Raises:
        ValueError: If the fraction is out of its range.
    """

    def __init__(self, window_fraction: float = 240 / 1024, of_waveforms: bool = False) -> None:
        super().__init__(of_waveforms)
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

    def draw_mixed(self, num_columns: int, generator: torch.Generator) -> Tensor:
        first, second, length = self.draw_windows(num_columns, generator)
        columns = torch.arange(num_columns)
        return ~((columns >= first) & (columns < first + length) | (columns >= second) & (columns < second + length))
