"""SpecAugment of a whole batch, on its device. Shape letters: B clips, L frames, F mel bins."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sslam.checks import at_least
from sslam.transforms.augmentation import band_mask


def warp_map(centre_B: Tensor, shift_B: Tensor, num_frames: int) -> Tensor:
    """Where every frame of a warped clip comes from: (B, num_frames), in frames, not whole ones.

    Frame ``centre`` moves to ``centre + shift``, the first and the last frame stay, and between these three the map is
    linear. It rises, since both parts have a length.

    Args:
        centre_B: Frame of each clip that is moved.
        shift_B: Distance in frames, to the right where positive; ``0 < centre + shift < num_frames - 1``.
        num_frames: Frames L of the clips.
    """
    last = num_frames - 1
    frame_L = torch.arange(num_frames, device=centre_B.device, dtype=shift_B.dtype)
    centre_B1, moved_B1 = centre_B[:, None], (centre_B + shift_B)[:, None]
    # Each part is counted from the end that stays, so that this end is met exactly.
    before_BL = frame_L * (centre_B1 / moved_B1)
    after_BL = last - (last - frame_L) * ((last - centre_B1) / (last - moved_B1))
    return torch.where(frame_L <= moved_B1, before_BL, after_BL)


def warp_time(features_BLF: Tensor, centre_B: Tensor, shift_B: Tensor) -> Tensor:
    """Features (B, L, F) with their frames moved as :func:`warp_map` says, interpolated linearly between frames."""
    num_frames = features_BLF.shape[1]
    source_BL = warp_map(centre_B, shift_B, num_frames)
    left_BL = source_BL.long().clamp(0, num_frames - 2)
    fraction_BL = (source_BL - left_BL).to(features_BLF.dtype)
    left_BLF, right_BLF = (
        features_BLF.gather(1, (left_BL + step)[..., None].expand_as(features_BLF)) for step in (0, 1)
    )
    return torch.lerp(left_BLF, right_BLF, fraction_BL[..., None])


@dataclass(frozen=True)
class SpecAugment:
    """Time warping, then frequency masks, then time masks, drawn for every example (Park et al. 2019 sec. 2).

    The defaults are those of Fonseca et al. 2021 (sec. 4.2): two masks of at most 10 bands, two of at most 10 frames, a
    warp of at most 8 frames. The width of a mask is uniform from 0 to its maximum, both included, and so is its place;
    masks may overlap. A frame between ``time_warp + 1`` and ``L - 2 - time_warp`` is moved by a uniform distance of at
    most ``time_warp`` to either side, and the frames on its two sides are stretched and squeezed linearly: the warp of
    the paper, which treats all bands alike, in one dimension. What is masked takes the mean of the example, which in
    the paper is 0 because its features are normalised; so it does not matter whether features are normalised here.

    Args:
        num_frequency_masks: Masks over bands; 0 for none.
        frequency_mask_width: Largest width of a frequency mask in bands; 0 for none.
        num_time_masks: Masks over frames; 0 for none.
        time_mask_width: Largest width of a time mask in frames; 0 for none.
        time_warp: Largest distance of the warp in frames; 0 for no warp.

    Raises:
        ValueError: If a value is negative.
    """

    num_frequency_masks: int = 2
    frequency_mask_width: int = 10
    num_time_masks: int = 2
    time_mask_width: int = 10
    time_warp: int = 8

    def __post_init__(self) -> None:
        at_least(0, **vars(self))

    def __call__(self, features_BLF: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented features, a new tensor (B, L, F).

        Args:
            features_BLF: Log-mels, normalised or not.
            generator: Generator on the device of the features.

        Raises:
            ValueError: If the features are too short for the warp, or narrower than the widest mask.
        """
        self._check(features_BLF)
        num_clips, num_frames, num_mel_bins = features_BLF.shape
        if self.time_warp:
            centre_B, shift_B = self.draw_warp(num_clips, num_frames, generator)
            features_BLF = warp_time(features_BLF, centre_B, shift_B)
        hidden_BF = _band_masks(num_clips, num_mel_bins, self.num_frequency_masks, self.frequency_mask_width, generator)
        hidden_BL = _band_masks(num_clips, num_frames, self.num_time_masks, self.time_mask_width, generator)
        mean_B11 = features_BLF.mean(dim=(1, 2), keepdim=True)
        return torch.where(hidden_BF[:, None, :] | hidden_BL[:, :, None], mean_B11, features_BLF)

    def draw_warp(self, num_clips: int, num_frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Frames that are moved and by how much, for ``num_clips`` clips of ``num_frames`` frames: (B,) and (B,)."""
        draw_2B = torch.rand(2, num_clips, generator=generator, device=generator.device)
        centre_B = self.time_warp + 1 + (draw_2B[0] * (num_frames - 2 * (self.time_warp + 1))).floor()
        return centre_B, (2 * draw_2B[1] - 1) * self.time_warp

    def _check(self, features_BLF: Tensor) -> None:
        _, num_frames, num_mel_bins = features_BLF.shape
        least = 2 * self.time_warp + 3
        if self.time_warp and num_frames < least:
            raise ValueError(
                f"A time_warp of {self.time_warp} needs clips of at least {least} frames, got {num_frames}. Use longer "
                "crops or a smaller time_warp."
            )
        for name, number, width, length, of in (
            ("frequency_mask_width", self.num_frequency_masks, self.frequency_mask_width, num_mel_bins, "mel bins"),
            ("time_mask_width", self.num_time_masks, self.time_mask_width, num_frames, "frames"),
        ):
            if number and width > length:
                raise ValueError(f"{name} must be at most the {length} {of} of the features, got {width}.")


def _band_masks(num_clips: int, length: int, number: int, max_width: int, generator: torch.Generator) -> Tensor:
    """True where one of ``number`` bands of at most ``max_width`` lies, shape (num_clips, length)."""
    masks = band_mask(num_clips * number, length, max_width + 1, generator)
    return masks.view(num_clips, number, length).any(dim=1)
