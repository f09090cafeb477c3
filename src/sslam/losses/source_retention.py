"""Targets of the source retention losses (SSLAM sec. 3.3).

Shape letters: B clips, T columns, R rows of the grid (P = T * R patches), Q patches of the mixed columns, D width.
"""

from typing import Literal

import torch
from torch import Tensor

Combination = Literal["mean", "max", "sum"]
"""What the latents of two sources make where both sound; published: their mean (SSLAM, appendix E)."""


def combine(own: Tensor, partner: Tensor, combination: Combination = "mean") -> Tensor:
    """Mean, element-wise maximum or sum of two sources' latents of one shape."""
    if combination == "max":
        return torch.maximum(own, partner)
    return (own + partner) * (0.5 if combination == "mean" else 1.0)


def source_retention_cls_target(own_BPD: Tensor, partner_BQD: Tensor, combination: Combination = "mean") -> Tensor:
    """Target of the global loss (B, 1, D): both sources' latents, each averaged over its patches, combined.

    The partner's latents (B, Q, D) are those of the mixed columns, encoded alone (``y_mix_cls`` of the published code).
    """
    return combine(own_BPD.mean(dim=1, keepdim=True), partner_BQD.mean(dim=1, keepdim=True), combination)


def source_retention_target(
    own_BPD: Tensor, partner_BQD: Tensor, mixed_columns: Tensor, num_rows: int, combination: Combination = "mean"
) -> Tensor:
    """What the student must find in a partial mixture: its two sources' latents combined where both sound.

    At unmixed columns the target equals the own latents. It is not normalised again.

    Args:
        own_BPD: Latents of the unmixed clip, shape (B, P, D).
        partner_BQD: Latents of the partner alone, encoded from the patches of the mixed columns only, shape
            (B, number of mixed columns * R, D).
        mixed_columns: Columns in which both clips sound, ascending, int64.
        num_rows: Number R of patches in a column.
        combination: How the two are combined.

    Returns:
        Target, shape (B, P, D).
    """
    target_BTRD = own_BPD.unflatten(1, (-1, num_rows)).clone()
    partner_BTRD = partner_BQD.unflatten(1, (-1, num_rows))
    target_BTRD[:, mixed_columns] = combine(target_BTRD[:, mixed_columns], partner_BTRD, combination)
    return target_BTRD.flatten(1, 2)
