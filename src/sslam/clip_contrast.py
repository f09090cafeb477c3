"""Telling clips apart: what an encoder learns from little data, where masked latents mostly teach it positions.

Shape letters: B clips, K clones of each of two views, R rows (clips x views x clones), L frames, F mel bins, V kept
patches, D width.
"""

import math

import torch
from torch import Tensor, nn

from sslam.checks import at_least, positive, within
from sslam.frontends import Frontend
from sslam.losses import multi_view_nt_xent_loss
from sslam.networks import AudioViT, ProjectionHead
from sslam.transforms import InverseBlockMasking, RandomSource

DECIBELS = 10 / math.log(10)  # to one neper of power


class ClipContrast(nn.Module):
    """Masked views of one clip must be found among those of the other clips. Not part of the published SSLAM.

    Each clip is heard twice, beginning at other times, at other levels and each time with another clip in the
    background; of each hearing the student sees ``num_clones`` masked views. Their pooled tokens go through a
    projection head, and every view must find the others of its clip (NT-Xent, as in Fonseca et al. 2021, equation 1).
    There is neither decoder nor teacher in it, so a step is cheap.

    Args:
        num_clones: Masked views K of each of the two hearings.
        temperature: Divides the cosine similarities.
        max_background: Largest share of the background in the power of a view, in [0, 1); drawn uniformly from 0.
        view_frames: Frames that a view hears of a clip, which begins again where it ends; None for all. Views of parts
            have less in common, and cost less.
        level_deviation: Standard deviation of the level of a view in dB; 0 keeps it.
        hidden: Units of the projection head's hidden layer.
        out: Size of the projected embeddings.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        num_clones: int = 2,
        temperature: float = 0.2,
        max_background: float = 0.4,
        view_frames: int | None = None,
        level_deviation: float = 9.0,
        hidden: int = 256,
        out: int = 128,
    ) -> None:
        super().__init__()
        at_least(1, num_clones=num_clones, hidden=hidden, out=out, view_frames=view_frames)
        positive(temperature=temperature)
        within(0, 1, "[)", max_background=max_background)
        at_least(0, level_deviation=level_deviation)
        self.num_clones = num_clones
        self.temperature = temperature
        self.max_background = max_background
        self.view_frames = view_frames
        self.level_deviation = level_deviation
        self.hidden = hidden
        self.out = out

    def build_head(self, frontend: Frontend, encoder: AudioViT) -> None:
        """Make the norm and the projection head of the encoder's width; the method does so once.

        Raises:
            ValueError: If ``view_frames`` does not fit the encoder, or the front end's features are no log-mels.
        """
        if self.view_frames is not None and self.view_frames % encoder.patch_size:
            raise ValueError(
                f"view_frames must be a multiple of the encoder's patch_size {encoder.patch_size}, got "
                f"{self.view_frames}."
            )
        _ = frontend.log_scale  # raises
        self.norm = nn.LayerNorm(3 * encoder.width)
        self.head = ProjectionHead(3 * encoder.width, self.hidden, self.out)

    def forward(
        self,
        student: AudioViT,
        features_BLF: Tensor,
        masking: InverseBlockMasking,
        log_scale: float,
        random: RandomSource,
        num_frames_B: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            student: Encoder that sees the kept patches.
            features_BLF: Normalised log-mels of two clips or more, (B, L, F).
            masking: Draws of what a view sees.
            log_scale: Natural logarithm of power that one unit of the features stands for.
            random: Generators of this step.
            num_frames_B: Frames of each clip, behind which there is padding, (B,); None where there is none.

        Returns:
            Scalar, float32; log(R - 2 K + 1) where all views are alike.

        Raises:
            ValueError: If there is one clip only.
        """
        if len(features_BLF) < 2:
            raise ValueError(
                "Clips are told apart from other clips, got a batch of one. Give every process at least 2 clips."
            )
        views_BLF = torch.cat([self.hear(features_BLF, log_scale, random, num_frames_B) for _ in range(2)])
        tokens_RVD = self.encode_masked(student, views_BLF, masking, random)
        patches_RVD = tokens_RVD[:, 1:].float()
        deviation_RD, mean_RD = torch.std_mean(patches_RVD, dim=1, correction=0)
        pooled = self.norm(torch.cat([tokens_RVD[:, 0].float(), mean_RD, deviation_RD], dim=-1))
        clip_R = torch.arange(len(features_BLF), device=pooled.device).repeat(2).repeat_interleave(self.num_clones)
        return multi_view_nt_xent_loss(self.head(pooled), clip_R, self.temperature)

    def hear(
        self, features_BLF: Tensor, log_scale: float, random: RandomSource, num_frames_B: Tensor | None = None
    ) -> Tensor:
        """Another hearing (B, ``view_frames``, F) of each clip: begun elsewhere, in a background, at another level."""
        clips, num_frames, _ = features_BLF.shape
        generator, device = random.device, features_BLF.device
        length_B1 = torch.full((clips, 1), num_frames, device=device)
        if num_frames_B is not None:
            length_B1 = num_frames_B.to(device).clamp(1, num_frames).unsqueeze(1)
        start_B1 = (torch.rand(clips, 1, generator=generator, device=device) * length_B1).long()
        view_L = torch.arange(min(num_frames, self.view_frames or num_frames), device=device)
        frame_BL = (view_L + start_B1) % length_B1
        heard_BLF = features_BLF.gather(1, frame_BL.unsqueeze(-1).expand(-1, -1, features_BLF.shape[2]))
        other_B = torch.randint(1, clips, (clips,), generator=generator, device=device)
        background_BLF = heard_BLF[(torch.arange(clips, device=device) + other_B) % clips]
        share_B11 = self.max_background * torch.rand(clips, 1, 1, generator=generator, device=device)
        # Powers add up; the features are their logarithms, divided by log_scale.
        mixed_BLF = torch.logaddexp(
            heard_BLF * log_scale + (1 - share_B11).log(), background_BLF * log_scale + share_B11.log()
        )
        level_B11 = torch.randn(clips, 1, 1, generator=generator, device=device)
        return (mixed_BLF + self.level_deviation / DECIBELS * level_B11) / log_scale

    def encode_masked(
        self, student: AudioViT, features_BLF: Tensor, masking: InverseBlockMasking, random: RandomSource
    ) -> Tensor:
        """Tokens (R, 1 + V, D) of the kept patches of every clone of every view, CLS first."""
        grid = student.grid(features_BLF.shape[1])
        patches_RPD = student.embed(features_BLF).repeat_interleave(self.num_clones, dim=0)
        kept_RV = masking(len(patches_RPD), grid, random.device).kept_ids
        return student.encode(patches_RPD.gather(1, kept_RV.unsqueeze(-1).expand(-1, -1, student.width)))
