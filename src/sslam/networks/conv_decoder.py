"""The decoder of pre-training: a small convolutional network over the grid of patches.

Shape letters: N rows (clips x clones), P patches, D encoder width, H decoder width, T columns, R rows of the grid.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sslam.rebuildable import Rebuildable


class ConvNormBlock(nn.Sequential):
    """Grouped convolution, LayerNorm over channels without affine parameters, GELU."""

    def __init__(self, in_width: int, out_width: int, kernel_size: int, groups: int) -> None:
        super().__init__(nn.Conv2d(in_width, out_width, kernel_size, padding=kernel_size // 2, groups=groups))
        self.out_width = out_width

    def forward(self, grid_NHTR: Tensor) -> Tensor:
        hidden_NTRH = self[0](grid_NHTR).permute(0, 2, 3, 1)
        return F.gelu(F.layer_norm(hidden_NTRH, (self.out_width,), eps=1e-5)).permute(0, 3, 1, 2)


class ConvDecoder(Rebuildable):
    """Predicts the teacher's latents from the encoded kept tokens (EAT sec. 3; the defaults are the published ones).

    Six residual blocks of grouped 3 x 3 convolutions, then a linear projection back to the encoder's width. A block
    whose input and output widths differ (the first one, where ``decoder_width`` is not ``width``) has no residual.

    Args:
        width: Encoder width D.
        decoder_width: Channels H of the convolutions.
        depth: Number of blocks.
        kernel_size: Odd side of the kernels.
        groups: Groups of the convolutions; must divide both widths.

    Raises:
        ValueError: If the kernel size is even or the groups do not divide the widths.
    """

    def __init__(
        self, width: int = 768, decoder_width: int = 768, depth: int = 6, kernel_size: int = 3, groups: int = 16
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that the grid keeps its size, got {kernel_size}.")
        if width % groups or decoder_width % groups:
            raise ValueError(
                f"groups must divide width and decoder_width, got groups={groups}, width={width}, "
                f"decoder_width={decoder_width}."
            )
        self.width = width
        self.decoder_width = decoder_width
        self.depth = depth
        self.kernel_size = kernel_size
        self.groups = groups
        self.blocks = nn.ModuleList(
            ConvNormBlock(decoder_width if number else width, decoder_width, kernel_size, groups)
            for number in range(depth)
        )
        self.projection = nn.Linear(decoder_width if depth else width, width)

    def forward(self, tokens_NPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, P, D) on a ``grid`` of (columns, rows) patches to predictions (N, P, D)."""
        columns, rows = grid
        # A transposed view of token-major memory is the channels-last layout, so nothing is copied.
        hidden = tokens_NPD.transpose(1, 2).unflatten(2, (columns, rows))
        for block in self.blocks:
            output = block(hidden)
            hidden = output + hidden if output.shape == hidden.shape else output
        return self.projection(hidden.flatten(2).transpose(1, 2))
