"""From the tokens of a clip to one vector.

Shape letters: B clips, P patches, L columns, R rows, D width, W pooled width.
"""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "mean", "both", "statistics", "row_statistics"]


def pool_tokens(tokens_BPD: Tensor, pooling: Pooling, num_rows: int = 1) -> Tensor:
    """Tokens of a clip to one vector; all patches count, so clips of different lengths must not be padded together.

    Args:
        tokens_BPD: Shape (B, 1 + P, D), CLS first, then the patches column by column.
        pooling: ``cls``: the CLS token, (B, D). ``mean``: the mean of the patches, (B, D). ``both``: CLS, then the
            mean, (B, 2 D). ``statistics``: the mean and then the standard deviation of the patches, (B, 2 D).
            ``row_statistics``: the same over time for each frequency row, lowest first, (B, R 2 D). Standard deviations
            have n in the denominator, so of one column they are 0.
        num_rows: Patches R of a column; only ``row_statistics`` needs it.

    Returns:
        Shape (B, W); the statistics at least in float32.
    """
    if pooling == "cls":
        return tokens_BPD[:, 0]
    patches_BPD = tokens_BPD[:, 1:]
    if pooling in ("statistics", "row_statistics"):
        # Squares of bfloat16 are too coarse.
        patches_BPD = patches_BPD.to(torch.promote_types(patches_BPD.dtype, torch.float32))
        rows_BLRD = patches_BPD.unflatten(1, (-1, num_rows if pooling == "row_statistics" else 1))
        # Where nothing varies PyTorch gives the deviation a gradient of 0, not nan.
        deviation_BRD, mean_BRD = torch.std_mean(rows_BLRD, dim=1, correction=0)
        return torch.cat([mean_BRD, deviation_BRD], dim=-1).flatten(1)
    mean_BD = patches_BPD.mean(dim=1)
    return mean_BD if pooling == "mean" else torch.cat([tokens_BPD[:, 0], mean_BD], dim=-1)


def pooled_width(width: int, pooling: Pooling, num_rows: int = 1) -> int:
    """Size W of what :func:`pool_tokens` gives for tokens of size ``width``."""
    vectors = {"cls": 1, "mean": 1, "both": 2, "statistics": 2, "row_statistics": 2 * num_rows}
    return vectors[pooling] * width
