"""Telling clips apart, also within mixtures: what an encoder learns from little data, where masked latents mostly teach
it positions.

Shape letters: B clips, K clones of each of two views, R rows (views x clips x clones), L frames, F mel bins, V kept
patches, D width.
"""

import torch
from torch import Tensor, nn

from sslam.checks import at_least, positive, within
from sslam.frontends import Frontend
from sslam.losses import shared_content_loss
from sslam.networks import AudioViT, ProjectionHead
from sslam.transforms import Hearing, InverseBlockMasking, RandomSource
from sslam.transforms.hearing import DECIBELS

# A clip is made louder or softer by at most this much where it is mixed: silence is not made a sound.
LARGEST_GAIN = 30.0 / DECIBELS


class ClipContrast(nn.Module):
    """Masked views of mixtures must show what they have in common. Not part of the published SSLAM.

    Each clip is heard twice (:class:`~sslam.transforms.Hearing`), each time mixed with another clip of the batch at
    another ratio; of each mixture the student sees ``num_clones`` masked views. Their pooled tokens go through a
    projection head, and a view is to be as similar to another as they share clips
    (:func:`~sslam.losses.shared_content_loss`): two mixtures with the same dog are alike by the share that the dog has
    in both. The idea is that of MixCo (Kim et al. 2020), whose mixtures of images are found by their parts. There is
    neither decoder nor teacher in it, so a step is cheap.

    Args:
        num_clones: Masked views K of each of the two mixtures.
        temperature: Divides the cosine similarities.
        mixed_share: Share of the views that are mixtures of two clips, in [0, 1]; the others are clips alone.
        largest_snr: Ratio of the powers of a mixture's clips in dB, drawn uniformly up to this to either side.
        hearing: How a clip is heard; None for the defaults of :class:`~sslam.transforms.Hearing`. Views of parts have
            less in common, and cost less.
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
        mixed_share: float = 0.8,
        largest_snr: float = 10.0,
        hearing: Hearing | None = None,
        level_deviation: float = 9.0,
        hidden: int = 256,
        out: int = 128,
    ) -> None:
        super().__init__()
        at_least(1, num_clones=num_clones, hidden=hidden, out=out)
        positive(temperature=temperature)
        within(0, 1, mixed_share=mixed_share)
        at_least(0, largest_snr=largest_snr, level_deviation=level_deviation)
        self.num_clones = num_clones
        self.temperature = temperature
        self.mixed_share = mixed_share
        self.largest_snr = largest_snr
        self.hearing = Hearing() if hearing is None else hearing
        self.level_deviation = level_deviation
        self.hidden = hidden
        self.out = out

    def build_head(self, frontend: Frontend, encoder: AudioViT) -> None:
        """Make the norm and the projection head of the encoder's width; the method does so once.

        Raises:
            ValueError: If ``view_frames`` does not fit the encoder, or the front end's features are no log-mels.
        """
        view_frames = self.hearing.view_frames
        if view_frames is not None and view_frames % encoder.patch_size:
            raise ValueError(
                f"view_frames must be a multiple of the encoder's patch_size {encoder.patch_size}, got {view_frames}."
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
            Scalar, float32; log(R - 1) where all views are alike.

        Raises:
            ValueError: If there is one clip only.
        """
        if len(features_BLF) < 2:
            raise ValueError(
                "Clips are told apart from other clips, got a batch of one. Give every process at least 2 clips."
            )
        first, second = (self.hear(features_BLF, log_scale, random, num_frames_B) for _ in range(2))
        tokens_RVD = self.encode_masked(student, torch.cat([first[0], second[0]]), masking, random)
        patches_RVD = tokens_RVD[:, 1:].float()
        deviation_RD, mean_RD = torch.std_mean(patches_RVD, dim=1, correction=0)
        pooled = self.norm(torch.cat([tokens_RVD[:, 0].float(), mean_RD, deviation_RD], dim=-1))
        content_RB = torch.cat([first[1], second[1]]).repeat_interleave(self.num_clones, dim=0)
        return shared_content_loss(self.head(pooled), content_RB, self.temperature)

    def hear(
        self, features_BLF: Tensor, log_scale: float, random: RandomSource, num_frames_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One view of each clip, with another clip in most of them.

        Returns:
            Features (B, ``view_frames``, F), and the share that every clip has in every view, (B, B); rows add up to 1.
            A clip of power p has a share of sqrt(p), as two sounds are heard long before their powers are equal.
        """
        generator, device, clips = random.device, features_BLF.device, len(features_BLF)
        log_power_BVF = self.hearing(features_BLF * log_scale, num_frames_B, generator)
        itself_B = torch.arange(clips, device=device)
        other_B = (itself_B + torch.randint(1, clips, (clips,), generator=generator, device=device)) % clips
        level_B = log_power_BVF.flatten(1).logsumexp(dim=1)
        ratio_B = (2 * torch.rand(clips, generator=generator, device=device) - 1) * self.largest_snr / DECIBELS
        gain_B = (level_B - level_B[other_B] - ratio_B).clamp(-LARGEST_GAIN, LARGEST_GAIN)
        is_mixed_B = torch.rand(clips, generator=generator, device=device) < self.mixed_share
        gain_B = gain_B.masked_fill(~is_mixed_B, -torch.inf)
        # Powers add up; the features are their logarithms, divided by log_scale.
        mixed_BVF = torch.logaddexp(log_power_BVF, log_power_BVF[other_B] + gain_B[:, None, None])
        share_B = torch.sigmoid((level_B - level_B[other_B] - gain_B) / 2)
        content_BB = torch.diag(share_B)
        content_BB[itself_B, other_B] = 1 - share_B
        view_level_B11 = torch.randn(clips, 1, 1, generator=generator, device=device)
        return (mixed_BVF + self.level_deviation / DECIBELS * view_level_B11) / log_scale, content_BB

    def encode_masked(
        self, student: AudioViT, features_BLF: Tensor, masking: InverseBlockMasking, random: RandomSource
    ) -> Tensor:
        """Tokens (R, 1 + V, D) of the kept patches of every clone of every view, CLS first."""
        grid = student.grid(features_BLF.shape[1])
        patches_RPD = student.embed(features_BLF).repeat_interleave(self.num_clones, dim=0)
        kept_RV = masking(len(patches_RPD), grid, random.device).kept_ids
        return student.encode(patches_RPD.gather(1, kept_RV.unsqueeze(-1).expand(-1, -1, student.width)))
