"""Heads of contrastive learning (Fonseca et al. 2021, sec. 4.2). Used in training only: embeddings are taken below.

Shape letters: B and N clips, R rows of a chunk, D width, H hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Pairs whose hidden layers are held at once: 32 MiB per layer at the published 512 units.
PAIRS_AT_ONCE = 2**14


class ProjectionHead(nn.Sequential):
    """Embeddings (B, D) to metric embeddings (B, out): one hidden layer with ReLU. These are not normalised.

    The paper names the layers and ReLU only; biases and initialisation are PyTorch's, here and in the other head.

    Args:
        width: Embedding size D.
        hidden: Units of the hidden layer. Published: 256.
        out: Size of the metric embeddings. Published: 128.
    """

    def __init__(self, width: int, hidden: int = 256, out: int = 128) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))


class CoincidenceHead(nn.Module):
    """Whether two embeddings come from one clip: a network with two hidden layers with ReLU on both, concatenated.

    The first layer is applied to each side once, with its half of the weights, and the sums are taken for the pairs;
    concatenated pairs are never built. Where there are many pairs, their hidden layers are computed in chunks of rows,
    and once more in the backward pass instead of being kept.

    Args:
        width: Embedding size D.
        hidden: Units H of both hidden layers. Published: 512.
    """

    def __init__(self, width: int, hidden: int = 512) -> None:
        super().__init__()
        self.width = width
        self.input = nn.Linear(2 * width, hidden)
        self.pair = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, first_BD: Tensor, second_ND: Tensor) -> Tensor:
        """Logits of all pairs of the first with the second embeddings.

        Args:
            first_BD: Shape (B, D).
            second_ND: Shape (N, D).

        Returns:
            Shape (B, N): before the sigmoid, row i and column j for the pair ``[first_i, second_j]``.

        Raises:
            ValueError: If the embeddings are not of the head's width.
        """
        for embeddings in (first_BD, second_ND):
            if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
                raise ValueError(
                    f"Embeddings must have shape (clips, {self.width}), got {tuple(embeddings.shape)}. Give the head "
                    "the width of the encoder's embeddings."
                )
        first_weight, second_weight = self.input.weight.chunk(2, dim=1)
        first_BH = F.linear(first_BD, first_weight, self.input.bias)
        second_NH = F.linear(second_ND, second_weight)
        if len(first_BD) * len(second_ND) <= PAIRS_AT_ONCE:
            return self._logits(first_BH, second_NH)
        return torch.cat(
            [
                checkpoint(self._logits, first_RH, second_NH, use_reentrant=False, preserve_rng_state=False)
                for first_RH in first_BH.split(max(1, PAIRS_AT_ONCE // len(second_ND)))
            ]
        )

    def _logits(self, first_RH: Tensor, second_NH: Tensor) -> Tensor:
        return self.pair(first_RH.unsqueeze(1) + second_NH).squeeze(-1)
