"""Masks for masked latent bootstrapping.

Shape letters: N masks (clips x clones), P patches.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslam.checks import at_least, within


class Masks(NamedTuple):
    """What the student sees.

    Attributes:
        kept_ids: Kept patches in ascending order, shape (N, number kept), int64.
        masked: True where a patch is hidden, shape (N, P).
    """

    kept_ids: Tensor
    masked: Tensor


class InverseBlockMasking:
    """Keeps a few square blocks of patches and hides the rest (data2vec 2.0 sec. 3.2; EAT sec. 3).

    Block centres are drawn uniformly over the grid with replacement; their blocks, cut at the border, are marked as
    kept; then single patches are marked or un-marked at random until every mask keeps the same number. One batched
    draw on the device gives the published distribution.

    Args:
        mask_ratio: Share of the patches that is hidden, in (0, 1).
        block_size: Side of a block in patches, >= 1.
        adjust: Share that is added to the kept one when the blocks are counted, because blocks overlap.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(self, mask_ratio: float = 0.8, block_size: int = 5, adjust: float = 0.07) -> None:
        within(0, 1, "()", mask_ratio=mask_ratio)
        at_least(1, block_size=block_size)
        self.mask_ratio = mask_ratio
        self.block_size = block_size
        self.adjust = adjust

    def num_kept(self, num_patches: int) -> int:
        """Patches that every mask keeps, rounded down as in the published code."""
        return int(num_patches * (1 - self.mask_ratio))

    def __call__(self, num_masks: int, grid: tuple[int, int], generator: torch.Generator) -> Masks:
        """Draw ``num_masks`` masks over a ``grid`` of (columns, rows) patches, on the generator's device.

        Raises:
            ValueError: If the grid is so small that nothing would be kept or nothing hidden.
        """
        columns, rows = grid
        num_patches = columns * rows
        num_kept = self.num_kept(num_patches)
        if not 0 < num_kept < num_patches:
            raise ValueError(
                f"A mask_ratio of {self.mask_ratio} keeps {num_kept} of {num_patches} patches; at least one must be "
                "kept and one hidden. Use longer clips or another mask_ratio."
            )
        device = generator.device
        num_centres = int(num_patches * (1 - self.mask_ratio + self.adjust) / self.block_size**2)
        centres = torch.randint(num_patches, (num_masks, num_centres), generator=generator, device=device)
        marked = torch.zeros(num_masks, num_patches, device=device).scatter_(1, centres, 1.0)
        # Growing each centre into a block is a maximum over the block's mirrored offsets.
        after = self.block_size // 2
        before = self.block_size - 1 - after
        padded = F.pad(marked.view(num_masks, 1, columns, rows), (before, after, before, after))
        marked = F.max_pool2d(padded, self.block_size, stride=1).view(num_masks, num_patches)
        # Random order among the marked, then among the others: the first num_kept are what marking or un-marking single
        # patches at random leaves.
        order = marked + torch.rand(num_masks, num_patches, generator=generator, device=device)
        kept_ids = order.topk(num_kept, dim=1, sorted=False).indices.sort(dim=1).values
        masked = torch.ones(num_masks, num_patches, dtype=torch.bool, device=device).scatter_(1, kept_ids, False)
        return Masks(kept_ids, masked)
