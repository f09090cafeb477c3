"""Which snippets of a clip are compared: mixture or separated channel, and where (Fonseca et al. 2021, sec. 2 and 3).

Shape letters: B clips, S sources (the mixture, then the channels), V views, T samples, C samples of a crop.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MIXTURE = 0
"""The source that is the clip itself; source k > 0 is its k-th separated channel."""


class Comparison:
    """Base of the comparisons: which source each of the two views of a pair is taken from."""

    uses_channels = True
    min_channels = 1

    def __call__(self, num_clips: int, num_channels: int, generator: torch.Generator) -> Tensor:
        """Sources of the first and the second view, (B, 2) int64, drawn for every clip on its own."""
        raise NotImplementedError


class MixtureAgainstMixture(Comparison):
    """Two snippets of the clip itself: the baseline without separation."""

    uses_channels = False

    def __call__(self, num_clips: int, num_channels: int, generator: torch.Generator) -> Tensor:
        return torch.full((num_clips, 2), MIXTURE)


class MixtureAgainstChannel(Comparison):
    """The clip and one of its channels, all channels being equally likely: what the paper finds best."""

    def __call__(self, num_clips: int, num_channels: int, generator: torch.Generator) -> Tensor:
        channel_B = torch.randint(1, num_channels + 1, (num_clips,), generator=generator)
        return torch.stack([torch.full_like(channel_B, MIXTURE), channel_B], dim=1)


class MixtureAgainstAny(Comparison):
    """The clip, and the clip again or one of its channels.

    The paper does not say how often the clip is compared with itself; here all of them are equally likely.
    """

    def __call__(self, num_clips: int, num_channels: int, generator: torch.Generator) -> Tensor:
        source_B = torch.randint(num_channels + 1, (num_clips,), generator=generator)
        return torch.stack([torch.full_like(source_B, MIXTURE), source_B], dim=1)


class ChannelAgainstChannel(Comparison):
    """Two different channels of the clip."""

    min_channels = 2

    def __call__(self, num_clips: int, num_channels: int, generator: torch.Generator) -> Tensor:
        first_B = torch.randint(num_channels, (num_clips,), generator=generator)
        step_B = torch.randint(1, num_channels, (num_clips,), generator=generator)
        return 1 + torch.stack([first_B, (first_B + step_B) % num_channels], dim=1)


class ViewDraws(NamedTuple):
    """What was drawn for the pairs of a batch, on the CPU; views 0 and 1 are the first pair, 2 and 3 the second."""

    processor_B: Tensor
    """Which separator the clip's channels come from, int64."""
    source_BV: Tensor
    """:data:`MIXTURE`, or the number of a channel, from 1; int64."""
    start_BV: Tensor
    """First sample of the snippet, int64."""


def draw_views(
    comparison: Comparison,
    num_samples_B: Tensor,
    crop_samples: int,
    num_pairs: int,
    num_processors: int,
    num_channels: int,
    temporal_proximity: bool,
    generator: torch.Generator,
) -> ViewDraws:
    """Draw sources and places of all views.

    One separator is drawn for each clip (the OR rule, sec. 5.3), channels for each pair, places for each view.

    Args:
        comparison: Sources of the two views of a pair.
        num_samples_B: True lengths of the clips, on the CPU.
        crop_samples: Length of a snippet in samples. Every place within the clip is equally likely; a shorter clip
            starts at 0.
        num_pairs: Pairs of every clip: one for each proxy task.
        num_processors: Separators to choose from.
        num_channels: Channels that each of them makes.
        temporal_proximity: Whether each view has a place of its own; False gives both views of a pair the same place.
        generator: Generator on the CPU.
    """
    num_clips = len(num_samples_B)
    processor_B = torch.randint(max(1, num_processors), (num_clips,), generator=generator)
    source_BV = torch.cat([comparison(num_clips, num_channels, generator) for _ in range(num_pairs)], dim=1)
    num_starts_B = (num_samples_B - crop_samples).clamp(min=0) + 1
    # In float64 the product stays below the number of starts however long the clip is.
    draw_BV = torch.rand(num_clips, 2 * num_pairs, generator=generator, dtype=torch.float64)
    if not temporal_proximity:
        draw_BV = draw_BV[:, ::2].repeat_interleave(2, dim=1)
    return ViewDraws(processor_B, source_BV, (draw_BV * num_starts_B.unsqueeze(1)).long())


def crop_views(sources_BST: Tensor, source_BV: Tensor, start_BV: Tensor, crop_samples: int) -> Tensor:
    """Snippets (B, V, C) of the sources, with zeros where a clip is shorter than a snippet.

    Args:
        sources_BST: Mixture and its channels, zero after the end of a clip.
        source_BV: Source that each view is taken from.
        start_BV: First sample of each view.
        crop_samples: Length C of a snippet in samples.
    """
    sources_BST = F.pad(sources_BST, (0, max(0, crop_samples - sources_BST.shape[-1])))
    num_clips, _, num_samples = sources_BST.shape
    first_BV = source_BV * num_samples + start_BV
    sample_BVC = first_BV.unsqueeze(-1) + torch.arange(crop_samples, device=first_BV.device)
    crops_BN = sources_BST.flatten(1).gather(1, sample_BVC.flatten(1))
    return crops_BN.view(num_clips, -1, crop_samples)
