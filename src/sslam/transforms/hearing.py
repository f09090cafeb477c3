"""Another hearing of a clip, as log-mels.

Shape letters: B clips, L frames, V frames of a view, F mel bins, C cosines.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sslam.checks import at_least, within

DECIBELS = 10 / math.log(10)  # to one neper of power
RESPONSE_COSINES = 4


@dataclass(frozen=True)
class Hearing:
    """The clip begun elsewhere, a little faster or slower, higher or lower, through another channel.

    After the random resized crop of BYOL-A (Niizumi et al. 2021, sec. III), with the level and the frequency response
    that another microphone would give. What is drawn is drawn for every clip.

    Args:
        view_frames: Frames that a view hears of a clip, which begins again where it ends; None for all.
        stretch: Largest change of speed and, drawn by itself, of the width of the spectrum about a mel bin, as a
            natural logarithm, in [0, 1): .15 gives factors of .86 to 1.16. 0 for none.
        response_deviation: Standard deviation in dB of a smooth frequency response at a mel bin; 0 for none.

    Raises:
        ValueError: If a value is out of its range.
    """

    view_frames: int | None = None
    stretch: float = 0.15
    response_deviation: float = 4.0

    def __post_init__(self) -> None:
        at_least(1, view_frames=self.view_frames)
        within(0, 1, "[)", stretch=self.stretch)
        at_least(0, response_deviation=self.response_deviation)

    def __call__(self, log_power_BLF: Tensor, num_frames_B: Tensor | None, generator: torch.Generator) -> Tensor:
        """Hear natural logarithms of power (B, L, F) again, (B, V, F).

        Args:
            log_power_BLF: Clips.
            num_frames_B: Frames of each clip, behind which there is padding, (B,); None where there is none.
            generator: Generator on the clips' device.
        """
        heard_BVF = self.crop(log_power_BLF, num_frames_B, generator)
        if self.stretch:
            heard_BVF = self.warp_frequency(heard_BVF, generator)
        clips, _, bins = heard_BVF.shape
        order_C1 = torch.arange(1, RESPONSE_COSINES + 1, device=heard_BVF.device).unsqueeze(1)
        cosine_CF = torch.cos(math.pi * order_C1 * (torch.arange(bins, device=heard_BVF.device) + 0.5) / bins)
        # A cosine's mean square over the bins is a half.
        amplitude = self.response_deviation / DECIBELS * math.sqrt(2 / RESPONSE_COSINES)
        weight_BC = amplitude * torch.randn(clips, RESPONSE_COSINES, generator=generator, device=heard_BVF.device)
        return heard_BVF + (weight_BC @ cosine_CF).unsqueeze(1)

    def crop(self, log_power_BLF: Tensor, num_frames_B: Tensor | None, generator: torch.Generator) -> Tensor:
        """Frames from a random start on, at another speed, interpolated linearly; behind the end is the beginning."""
        clips, num_frames, bins = log_power_BLF.shape
        device = log_power_BLF.device
        length_B1 = torch.full((clips, 1), num_frames, device=device)
        if num_frames_B is not None:
            length_B1 = num_frames_B.to(device).clamp(1, num_frames).unsqueeze(1)
        start_B1 = (torch.rand(clips, 1, generator=generator, device=device) * length_B1).long()
        speed_B1 = self.draw_factor(clips, generator)
        view_V = torch.arange(min(num_frames, self.view_frames or num_frames), device=device)
        frame_BV = start_B1 + view_V * speed_B1
        whole_BV = frame_BV.floor()
        left_BVF, right_BVF = (
            log_power_BLF.gather(1, ((whole_BV.long() + step) % length_B1).unsqueeze(-1).expand(-1, -1, bins))
            for step in (0, 1)
        )
        return torch.lerp(left_BVF, right_BVF, (frame_BV - whole_BV).unsqueeze(-1))

    def warp_frequency(self, log_power_BLF: Tensor, generator: torch.Generator) -> Tensor:
        """The mel axis stretched or squeezed about a random bin; beyond its ends the last bin goes on."""
        clips, _, bins = log_power_BLF.shape
        device = log_power_BLF.device
        centre_B1 = torch.rand(clips, 1, generator=generator, device=device) * (bins - 1)
        bin_F = torch.arange(bins, device=device)
        source_BF = (centre_B1 + (bin_F - centre_B1) * self.draw_factor(clips, generator)).clamp(0, bins - 1)
        # Linear interpolation as a matrix: a tent of two bins about the place that each bin comes from.
        tent_BFF = (1 - (bin_F.unsqueeze(1) - source_BF.unsqueeze(1)).abs()).clamp(min=0)
        return log_power_BLF @ tent_BFF

    def draw_factor(self, clips: int, generator: torch.Generator) -> Tensor:
        """Factors (B, 1), uniform on a logarithmic scale."""
        uniform_B1 = 2 * torch.rand(clips, 1, generator=generator, device=generator.device) - 1
        return torch.exp(self.stretch * uniform_B1)
