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


def shared_content_loss(views_VD: Tensor, content_VC: Tensor, temperature: float = 0.3) -> Tensor:
    """Cross-entropy of the similarities of views against what the views have in common.

    A view is compared with all others as in :func:`nt_xent_loss`, but what it should find is not one of them: the
    others are wanted in proportion to the clips that both contain, ``content_i . content_j``. With views of single
    clips that is the supervised contrastive loss with a label for each clip (Khosla et al. 2020, equation 2), with
    mixtures its soft form, as in MixCo (Kim et al. 2020, equation 3).

    Args:
        views_VD: Views, shape (V, D); any length but zero.
        content_VC: Share that each of C clips has in each view, (V, C), not negative.
        temperature: Divides the similarities; greater than 0.

    Returns:
        Scalar, float32 at least, also under autocast: the mean over the views that share a clip with another.
        log(V - 1) where all views are alike.

    Raises:
        ValueError: If the shapes do not fit, or no two views have a clip in common.
    """
    if views_VD.ndim != 2 or content_VC.ndim != 2 or len(views_VD) != len(content_VC):
        raise ValueError(
            "Views must have shape (views, width) and their contents (views, clips), got "
            f"{tuple(views_VD.shape)} and {tuple(content_VC.shape)}."
        )
    with torch.autocast(views_VD.device.type, enabled=False):
        views_VD = views_VD.to(torch.promote_types(views_VD.dtype, torch.float32))
        content_VC = content_VC.to(views_VD.dtype)
        views_VD = F.normalize(views_VD, dim=-1, eps=SMALLEST_NORM)
        itself_VV = torch.eye(len(views_VD), dtype=torch.bool, device=views_VD.device)
        common_VV = (content_VC @ content_VC.T).masked_fill(itself_VV, 0)
        in_common_V = common_VV.sum(dim=1)
        paired_V = in_common_V > 0
        if not paired_V.any():
            raise ValueError(f"None of {len(views_VD)} views has a clip in common with another. Give two of a clip.")
        similarity_VV = (views_VD @ views_VD.T / temperature).masked_fill(itself_VV, -torch.inf)
        found_VV = similarity_VV.log_softmax(dim=1).masked_fill(itself_VV, 0)
        loss_V = -(common_VV * found_VV).sum(dim=1) / in_common_V.where(paired_V, 1)
        return loss_V.sum() / paired_V.sum()


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
