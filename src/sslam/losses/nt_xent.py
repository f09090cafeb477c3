"""Similarity maximisation: two views of a clip are told from the views of all other clips.

Shape letters: B clips, V = 2 B views, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslam.checks import positive
from sslam.losses.gathering import all_gather_with_gradient

# Below this norm a vector is shortened rather than normalised, which bounds the gradient where a head gives zeros.
SMALLEST_NORM = 1e-6


def nt_xent_loss(first_BD: Tensor, second_BD: Tensor, temperature: float = 0.3) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Fonseca et al. 2021, equation 1; SimCLR).

    Every view is compared by its cosine similarity to the 2 B - 1 other views of the batch, of both kinds, and must
    find the other view of its clip. The paper's overall loss "includes both" directions of a pair; whether as sum or
    mean it leaves open. This is SimCLR's mean over all 2 B views.

    Args:
        first_BD: One view of every clip, shape (B, D); any length but zero.
        second_BD: Another view of the same clips in the same order.
        temperature: Divides the similarities; greater than 0, in the paper at most 1. Published: 0.3.

    Returns:
        Scalar, float32 at least, also under autocast. log(2 B - 1) where all views are alike.

    Raises:
        ValueError: If the shapes do not fit or there is one clip only.
    """
    if first_BD.ndim != 2 or first_BD.shape != second_BD.shape:
        raise ValueError(
            "The two views must be of one shape (clips, width), got "
            f"{tuple(first_BD.shape)} and {tuple(second_BD.shape)}."
        )
    num_clips = len(first_BD)
    if num_clips < 2:
        raise ValueError(
            f"A batch of {num_clips} has no negatives: other clips are what a clip is told from. Give every process "
            "at least 2 clips, or gather the negatives of several processes."
        )
    with torch.autocast(first_BD.device.type, enabled=False):
        views_VD = torch.cat([first_BD, second_BD])
        views_VD = views_VD.to(torch.promote_types(views_VD.dtype, torch.float32))
        views_VD = F.normalize(views_VD, dim=-1, eps=SMALLEST_NORM)
        similarity_VV = views_VD @ views_VD.T / temperature
        itself_VV = torch.eye(2 * num_clips, dtype=torch.bool, device=views_VD.device)
        other_view_V = torch.arange(2 * num_clips, device=views_VD.device).roll(num_clips)
        return F.cross_entropy(similarity_VV.masked_fill(itself_VV, -torch.inf), other_view_V)


def multi_view_nt_xent_loss(views_VD: Tensor, clip_V: Tensor, temperature: float = 0.3) -> Tensor:
    """:func:`nt_xent_loss` for any number of views of a clip: the mean over all ordered pairs of views of one clip.

    Each view must find each other view of its clip among the views of all other clips; the remaining views of the same
    clip are left out of the sum that it is compared with. With two views of every clip it is the same as above.

    Args:
        views_VD: Views, shape (V, D); any length but zero.
        clip_V: Which clip each view is of, int64; at least one clip with two views, and two clips.
        temperature: Divides the similarities; greater than 0.

    Returns:
        Scalar, float32 at least, also under autocast.

    Raises:
        ValueError: If the shapes do not fit, or there is no pair of views of one clip or no other clip.
    """
    if views_VD.ndim != 2 or clip_V.shape != views_VD.shape[:1]:
        raise ValueError(
            "Views must have shape (views, width) and a clip each, got "
            f"{tuple(views_VD.shape)} and {tuple(clip_V.shape)}."
        )
    itself_VV = torch.eye(len(clip_V), dtype=torch.bool, device=views_VD.device)
    same_clip_VV = clip_V[:, None] == clip_V[None]
    pairs_VV = same_clip_VV & ~itself_VV
    if not pairs_VV.any() or same_clip_VV.all():
        raise ValueError(
            f"{len(clip_V)} views of {len(clip_V.unique())} clips cannot be told apart: two views of one and another "
            "clip are needed. Give every process at least 2 clips."
        )
    with torch.autocast(views_VD.device.type, enabled=False):
        views_VD = views_VD.to(torch.promote_types(views_VD.dtype, torch.float32))
        views_VD = F.normalize(views_VD, dim=-1, eps=SMALLEST_NORM)
        similarity_VV = views_VD @ views_VD.T / temperature
        others_V1 = similarity_VV.masked_fill(same_clip_VV, -torch.inf).logsumexp(dim=1, keepdim=True)
        loss_VV = torch.logaddexp(similarity_VV, others_V1) - similarity_VV
        return (loss_VV * pairs_VV).sum() / pairs_VV.sum()


class NTXent(nn.Module):
    """:func:`nt_xent_loss`, with negatives of this process (as published) or of all processes.

    With gathered negatives the loss and the averaged gradients are those of one process with the whole batch. Every
    process then compares all views: 4096 for the published batch of 2048 clips.

    Args:
        temperature: Greater than 0. Published: 0.3.
        gather_negatives: Whether the clips of all processes are negatives, in training mode; their batches must have
            the same size, which evaluation does not promise.

    Raises:
        ValueError: If the temperature is not greater than 0.
    """

    def __init__(self, temperature: float = 0.3, gather_negatives: bool = False) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature = temperature
        self.gather_negatives = gather_negatives

    def forward(self, first_BD: Tensor, second_BD: Tensor) -> Tensor:
        """Two views of the same clips, each (B, D), to a scalar."""
        if self.gather_negatives and self.training:
            first_BD, second_BD = all_gather_with_gradient(torch.stack([first_BD, second_BD], dim=1)).unbind(dim=1)
        return nt_xent_loss(first_BD, second_BD, self.temperature)
