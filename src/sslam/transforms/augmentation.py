"""Augmentation of labelled clips, as EAT and SSLAM fine-tune: drawn for a whole batch, on its device.

Shape letters: B clips, T samples, L frames, F mel bins, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sslam.checks import at_least, within
from sslam.transforms.random_source import RandomSource


def roll_waveforms(waveform_BT: Tensor, num_samples_B: Tensor, generator: torch.Generator, gain_B: Tensor) -> Tensor:
    """Shift every clip by a random number of samples, what leaves at its end coming back at its start, and scale it.

    Args:
        waveform_BT: Clips with padding at the end, which stays where it is.
        num_samples_B: True lengths of the clips.
        generator: Generator on the device of the clips.
        gain_B: Factor of every clip.
    """
    shift_B = torch.rand(num_samples_B.shape, generator=generator, device=waveform_BT.device) * num_samples_B
    position_T = torch.arange(waveform_BT.shape[1], device=waveform_BT.device)
    source_BT = (position_T - shift_B.long()[:, None]) % num_samples_B.clamp(min=1)[:, None]
    source_BT = torch.where(position_T < num_samples_B[:, None], source_BT, position_T)
    return waveform_BT.gather(1, source_BT) * gain_B[:, None]


def mix_up(batch: Tensor, share: float) -> Tensor:
    """``share`` of every clip and the rest of its partner: of the first clip the last one, and so on."""
    return share * batch + (1 - share) * batch.flip(0)


def band_mask(num_clips: int, length: int, max_width: float, generator: torch.Generator) -> Tensor:
    """True in one band per clip, whose width and place are random, shape (num_clips, length).

    A width is a uniform number from 0 to ``max_width``, which it does not reach, rounded down (SpecAugment, Park et al.
    2019, sec. 2): a ``max_width`` of 25.6 gives 0 to 25.
    """
    draw_2B = torch.rand(2, num_clips, generator=generator, device=generator.device)
    width_B = (draw_2B[0] * max_width).long()
    start_B = (draw_2B[1] * (length - width_B + 1)).long()
    position = torch.arange(length, device=generator.device)
    return (position >= start_B[:, None]) & (position < (start_B + width_B)[:, None])


@dataclass(frozen=True)
class Augmentation:
    """Published augmentation of training clips; the defaults are those of AudioSet (EAT and SSLAM, appendix tables).

    Args:
        roll: Circular shift of the waveform by a random time and a random gain, 0.5 + Beta(10, 10).
        noise: Uniform noise on the features, up to a random level of at most 0.1, and a shift by up to ten frames
            (Speech Commands).
        mixup_alpha: Parameter of Beta(alpha, alpha), from which the share of the first of two mixed clips is drawn,
            once per batch; 0 for no mixing.
        mixup_probability: Probability of a batch to be mixed.
        mask_ratio: Widest SpecAugment mask over the size of the features, one mask over frequency and one over time per
            clip; 0 for none.

    Raises:
        ValueError: If a value is out of its range.
    """

    roll: bool = True
    noise: bool = False
    mixup_alpha: float = 0.8
    mixup_probability: float = 0.9
    mask_ratio: float = 0.2

    def __post_init__(self) -> None:
        at_least(0, mixup_alpha=self.mixup_alpha)
        within(0, 1, mixup_probability=self.mixup_probability, mask_ratio=self.mask_ratio)

    def waveforms(self, waveform_BT: Tensor, num_samples_B: Tensor, random: RandomSource) -> Tensor:
        """What is done to waveforms (B, T), before the front end."""
        if not self.roll:
            return waveform_BT
        gain_B = 0.5 + torch.from_numpy(_numpy_generator(random).beta(10, 10, len(waveform_BT))).float()
        gain_B = gain_B.to(waveform_BT.device, non_blocking=True)
        return roll_waveforms(waveform_BT, num_samples_B, random.device, gain_B)

    def features(self, features_BLF: Tensor, labels_BC: Tensor, random: RandomSource) -> tuple[Tensor, Tensor]:
        """What is done to normalised features (B, L, F) and, by mixing, to their labels (B, C)."""
        if self.noise:
            features_BLF = self._add_noise(features_BLF, random)
        draws = _numpy_generator(random)
        if self.mixup_alpha and draws.random() < self.mixup_probability:
            share = draws.beta(self.mixup_alpha, self.mixup_alpha)
            features_BLF, labels_BC = mix_up(features_BLF, share), mix_up(labels_BC.float(), share)
        if self.mask_ratio:
            features_BLF = self._mask(features_BLF, random)
        return features_BLF, labels_BC

    def _add_noise(self, features_BLF: Tensor, random: RandomSource) -> Tensor:
        num_clips, num_frames, _ = features_BLF.shape
        generator, device = random.device, features_BLF.device
        level_B11 = torch.rand(num_clips, 1, 1, generator=generator, device=device) / 10
        noisy_BLF = features_BLF + level_B11 * torch.rand(features_BLF.shape, generator=generator, device=device)
        shift_B1 = torch.randint(-10, 10, (num_clips, 1), generator=generator, device=device)
        source_BL = (torch.arange(num_frames, device=device) - shift_B1) % num_frames
        return noisy_BLF.gather(1, source_BL[..., None].expand_as(noisy_BLF))

    def _mask(self, features_BLF: Tensor, random: RandomSource) -> Tensor:
        num_clips, num_frames, num_mel_bins = features_BLF.shape
        hidden_BF = band_mask(num_clips, num_mel_bins, self.mask_ratio * num_mel_bins, random.device)
        hidden_BL = band_mask(num_clips, num_frames, self.mask_ratio * num_frames, random.device)
        return features_BLF.masked_fill(hidden_BF[:, None, :] | hidden_BL[:, :, None], 0.0)


def _numpy_generator(random: RandomSource) -> np.random.Generator:
    """NumPy's, since torch draws from no Beta distribution with a generator; goes on where ``random.cpu`` stands."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=random.cpu)))
