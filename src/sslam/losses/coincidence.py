"""Coincidence prediction: whether two snippets come from one clip, asked of every pair of a batch.

Shape letters: B clips of this process, N clips that they are paired with, D width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from sslam.losses.gathering import all_gather_with_gradient, num_processes


def coincidence_loss(logits_BN: Tensor, first_column: int = 0) -> Tensor:
    """Class-balanced binary cross-entropy over all pairs (Fonseca et al. 2021, equation 2).

    The mean over the B pairs of one clip plus the mean over the B (N - 1) pairs of different clips. The pairs are
    ordered: (i, j) and (j, i) are two.

    Args:
        logits_BN: Logits that snippet i and snippet j coincide, before the sigmoid, shape (B, N). N = B but for
            negatives of several processes.
        first_column: The column that belongs to the clip of row 0; row i belongs to column ``first_column + i``.

    Returns:
        Scalar, float32 at least. 2 log 2 where all logits are 0.

    Raises:
        ValueError: If the logits are not a table of pairs, there is one clip only, or rows are without their column.
    """
    if logits_BN.ndim != 2:
        raise ValueError(
            f"Logits must have shape (clips, clips), got {tuple(logits_BN.shape)}. Give one logit for every pair."
        )
    num_rows, num_columns = logits_BN.shape
    if num_columns < 2:
        raise ValueError(
            f"A batch of {num_columns} has no pairs of different clips. Give every process at least 2 clips, or gather "
            "the negatives of several processes."
        )
    if not 0 <= first_column <= num_columns - num_rows:
        raise ValueError(
            f"Logits of shape {(num_rows, num_columns)} with first_column={first_column} have rows without a pair of "
            "their own clip. Give every row its column."
        )
    logits_BN = logits_BN.to(torch.promote_types(logits_BN.dtype, torch.float32))
    own_column_B1 = first_column + torch.arange(num_rows, device=logits_BN.device).unsqueeze(1)
    is_positive_BN = torch.arange(num_columns, device=logits_BN.device) == own_column_B1
    # -log sigmoid(x) = softplus(-x) and -log(1 - sigmoid(x)) = softplus(x)
    positive_loss = F.softplus(-logits_BN.diagonal(first_column)).sum() / num_rows
    negative_loss = F.softplus(logits_BN).masked_fill(is_positive_BN, 0.0).sum() / (num_rows * (num_columns - 1))
    return positive_loss + negative_loss


class Coincidence(nn.Module):
    """:func:`coincidence_loss` of a head's logits, with negatives of this process (as published) or of all processes.

    With gathered negatives every process pairs its own first snippets with the second ones of all, so that the work is
    shared; the mean of the losses and the averaged gradients are those of one process with the whole batch.

    Args:
        gather_negatives: Whether the clips of all processes are negatives, in training mode; their batches must have
            the same size, which evaluation does not promise.
    """

    def __init__(self, gather_negatives: bool = False) -> None:
        super().__init__()
        self.gather_negatives = gather_negatives

    def forward(self, head: Callable[[Tensor, Tensor], Tensor], first_BD: Tensor, second_BD: Tensor) -> Tensor:
        """Loss of this process's clips.

        Args:
            head: Embeddings (B, D) and (N, D) to the logits (B, N) of all pairs, as
                :class:`sslam.networks.CoincidenceHead`.
            first_BD: Embeddings of one snippet of every clip, shape (B, D).
            second_BD: Embeddings of another snippet of the same clips in the same order.

        Returns:
            Scalar.
        """
        if self.gather_negatives and self.training and num_processes() > 1:
            return coincidence_loss(
                head(first_BD, all_gather_with_gradient(second_BD)), first_column=distributed.get_rank() * len(first_BD)
            )
        return coincidence_loss(head(first_BD, second_BD))
