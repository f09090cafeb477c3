"""From the tokens of a clip to one vector. Shape letters: B clips, P patches, D width, W pooled width."""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "mean", "both"]


def pool_tokens(tokens_BPD: Tensor, pooling: Pooling) -> Tensor:
    """Tokens (B, 1 + P, D), CLS first, to the CLS token, the mean of the patches, or both in a row: (B, W)."""
    if pooling == "cls":
        return tokens_BPD[:, 0]
    mean_BD = tokens_BPD[:, 1:].mean(dim=1)
    return mean_BD if pooling == "mean" else torch.cat([tokens_BPD[:, 0], mean_BD], dim=-1)


def pooled_width(width: int, pooling: Pooling) -> int:
    """Size of what :func:`pool_tokens` gives for tokens of size ``width``."""
    return 2 * width if pooling == "both" else width
