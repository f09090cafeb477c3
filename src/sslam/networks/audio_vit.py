"""The encoder: a Vision Transformer over log-mel patches with fixed positions and post-norm blocks.

Shape letters: B clips, L frames, F mel bins, P patches, D width.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sslam.checks import at_least
from sslam.networks.attention import Attention
from sslam.rebuildable import Rebuildable

LAYER_NORM_EPS = 1e-6
MAX_POSITION_NUMBERS = 2**27  # 28 times those of the published base size


class LayerSize(NamedTuple):
    """Width D of the tokens of a layer, and how many of them are a column: its frequency rows."""

    width: int
    num_rows: int


class Encoder(Rebuildable):
    """Base of every encoder that a method can be given, also of a user's own, whose constructor takes plain values.

    Attributes:
        width: Size D of a token.
        num_mel_bins: Mel bins F that the features must have.
        patch_size: Frames to a column of patches; ``sslam embed`` needs it.
        num_rows: Patches of a column, from the lowest frequency up; the pooling ``row_statistics`` needs it.
        max_columns: Columns of the longest clip, or None where any length is taken.
        depth: Number of layers; fine-tuning needs it, for the learning rate of each.
        blocks: Layers, lowest first, likewise.
    """

    width: int
    num_mel_bins: int
    patch_size: int
    num_rows: int
    max_columns: int | None = None
    depth: int
    blocks: nn.ModuleList

    def forward(self, features_BLF: Tensor) -> Tensor:
        """Features (B, L, F) to tokens (B, 1 + P, D): one for the whole clip, then patches, column by column."""
        raise NotImplementedError

    def layer_size(self, layer: int) -> LayerSize:
        """Size of the tokens of a layer, from 1 to ``depth``; with :meth:`forward_with_layers` what readouts need.

        Raises:
            ValueError: If the encoder does not offer its layers.
        """
        raise ValueError(
            f"{type(self).__name__} does not offer the tokens of its layers. Leave layers out, or define layer_size "
            "and forward_with_layers of sslam.networks.Encoder in it."
        )

    def forward_with_layers(self, features_BLF: Tensor, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """What :meth:`forward` gives, and by number, from 1, the tokens (B, 1 + P, D) of these layers of the same pass.

        P and D of a layer may be its own, and the patches are in the same order.
        """
        raise NotImplementedError

    def check_mel_bins(self, features_BLF: Tensor) -> None:
        """Raises a ValueError if the features have other mel bins than ``num_mel_bins``."""
        if features_BLF.shape[2] != self.num_mel_bins:
            raise ValueError(
                f"The encoder was built for {self.num_mel_bins} mel bins, got features with {features_BLF.shape[2]}. "
                "Give the front end and the encoder the same num_mel_bins."
            )


def sincos_positions_1d(width: int, num_positions: int) -> Tensor:
    """Sine half then cosine half of ``position / 10000^(k / (width / 2))``, shape (num_positions, width), float32."""
    # NumPy's float32 power is the one that published checkpoints were made with; torch's differs in the last bit, which
    # far positions multiply.
    exponents = np.arange(width // 2, dtype=np.float32) / np.float32(width / 2)
    omega = np.float32(1.0) / np.float32(10000.0) ** exponents
    angles = np.arange(num_positions, dtype=np.float32)[:, None] * omega[None, :]
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))


def sincos_positions_2d(width: int, num_columns: int, num_rows: int) -> Tensor:
    """Fixed positions of a grid of ``num_columns`` (time) x ``num_rows`` (frequency) patches.

    Token ``t * num_rows + f`` has the encoding of f in its first half and of t in its second half (the order of the
    published table).

    Returns:
        Positions, shape (num_columns * num_rows, width), float32.

    Raises:
        ValueError: If the width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"width must be a multiple of 4 for 2-D sine-cosine positions, got {width}.")
    frequency_rows = sincos_positions_1d(width // 2, num_rows)
    time_columns = sincos_positions_1d(width // 2, num_columns)
    grid = torch.cat(
        [
            frequency_rows[None, :, :].expand(num_columns, -1, -1),
            time_columns[:, None, :].expand(-1, num_rows, -1),
        ],
        dim=-1,
    )
    return grid.reshape(num_columns * num_rows, width)


class PostNormBlock(nn.Module):
    """Transformer block that normalises after each residual sum and also hands out its MLP output.

    ``x = norm1(x + attn(x)); t = mlp(x); x = norm2(x + t)``. The teacher builds its targets from ``t``.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        from timm.layers import DropPath, Mlp  # a second or two, which --help need not wait for

        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, hidden_features=round(width * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, tokens_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, P, D) to (tokens after the block, MLP output before its residual sum), both (B, P, D)."""
        tokens_BPD = self.norm1(tokens_BPD + self.drop_path(self.attn(tokens_BPD)))
        mlp_output_BPD = self.mlp(tokens_BPD)
        return self.norm2(tokens_BPD + self.drop_path(mlp_output_BPD)), mlp_output_BPD


class AudioViT(Encoder):
    """Vision Transformer over 16 x 16 log-mel patches (EAT / SSLAM; the defaults are the published base size).

    Patches run through the clip column by column: token ``t * (F / patch_size) + f``. The order of operations is
    patches + positions, selection of tokens (when masked), CLS in front, LayerNorm, blocks; there is no final norm.

    Args:
        width: Token size D, a multiple of 4 and of ``num_heads``. Base 768, large 1024.
        depth: Number of blocks. Base 12, large 24.
        num_heads: Attention heads. Base 12, large 16.
        mlp_ratio: Hidden size of the MLP over ``width``.
        patch_size: Frames and mel bins of a square patch.
        num_mel_bins: Mel bins F of the features, a multiple of ``patch_size``.
        max_columns: Longest clip in patches over time; 768 columns of 16 frames of 10 ms are two minutes.
        drop_path: Stochastic depth of the last block, rising linearly from 0 at the first one; 0 in pre-training.
        checkpoint_blocks: Whether to keep only the blocks' inputs for the backward pass and compute the rest again:
            less memory, a third more time, the same result.

    Raises:
        ValueError: If sizes do not divide, or the positions would be more than the memory should hold.
    """

    max_columns: int

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
        num_mel_bins: int = 128,
        max_columns: int = 768,
        drop_path: float = 0.0,
        checkpoint_blocks: bool = False,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got width={width} and num_heads={num_heads}.")
        if num_mel_bins % patch_size:
            raise ValueError(
                f"num_mel_bins must be a multiple of patch_size, got num_mel_bins={num_mel_bins} and "
                f"patch_size={patch_size}."
            )
        at_least(1, depth=depth)
        if max_columns * (num_mel_bins // patch_size) * width > MAX_POSITION_NUMBERS:
            raise ValueError(
                "max_columns x (num_mel_bins / patch_size) x width, the numbers in the table of positions, must be at "
                f"most {MAX_POSITION_NUMBERS}, got {max_columns} x {num_mel_bins // patch_size} x {width}."
            )
        self.width = width
        self.depth = depth
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.patch_size = patch_size
        self.num_mel_bins = num_mel_bins
        self.num_rows = num_mel_bins // patch_size
        self.max_columns = max_columns
        self.checkpoint_blocks = checkpoint_blocks
        self.patch_embed = nn.Conv2d(1, width, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        rates = (drop_path * layer / max(1, depth - 1) for layer in range(depth))
        self.blocks = nn.ModuleList(PostNormBlock(width, num_heads, mlp_ratio, rate) for rate in rates)
        # Recomputed, so not part of a checkpoint.
        self.register_buffer("positions", sincos_positions_2d(width, max_columns, self.num_rows), persistent=False)
        self.positions: Tensor
        self.apply(self._initialise)
        nn.init.normal_(self.cls_token)
        nn.init.xavier_uniform_(self.patch_embed.weight.view(width, -1))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def grid(self, num_frames: int) -> tuple[int, int]:
        """Patches over time and over frequency of a clip of ``num_frames`` frames."""
        return num_frames // self.patch_size, self.num_rows

    def embed(self, features_BLF: Tensor) -> Tensor:
        """Patch embedding plus positions, features (B, L, F) to patches (B, P, D). Frames past a full patch are cut.

        Raises:
            ValueError: If the mel bins differ from ``num_mel_bins`` or the clip is shorter than one patch or longer
                than ``max_columns`` patches.
        """
        self.check_mel_bins(features_BLF)
        num_frames = features_BLF.shape[1]
        num_columns, num_rows = self.grid(num_frames)
        if not 1 <= num_columns <= self.max_columns:
            raise ValueError(
                f"A clip must have between {self.patch_size} and {self.max_columns * self.patch_size} frames for this "
                f"encoder, got {num_frames}. Change the clip length or the encoder's max_columns."
            )
        patches_BPD = self.patch_embed(features_BLF.unsqueeze(1)).flatten(2).transpose(1, 2)
        return patches_BPD + self.positions[: num_columns * num_rows]

    def prepare_tokens(self, patches_BPD: Tensor) -> Tensor:
        """CLS (which has no position) in front of any selection of patches, then LayerNorm: (B, 1 + P, D)."""
        cls_B1D = self.cls_token.to(patches_BPD.dtype).expand(patches_BPD.shape[0], -1, -1)
        return self.norm(torch.cat([cls_B1D, patches_BPD], dim=1))

    def encode(self, patches_BPD: Tensor) -> Tensor:
        """Any selection of embedded patches (B, P, D) to encoded tokens (B, 1 + P, D), CLS first."""
        tokens_BPD = self.prepare_tokens(patches_BPD)
        for block in self.blocks:
            tokens_BPD, _ = self._run(block, tokens_BPD)
        return tokens_BPD

    def _run(self, block: nn.Module, tokens_BPD: Tensor) -> tuple[Tensor, Tensor]:
        if self.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(block, tokens_BPD, use_reentrant=False)
        return block(tokens_BPD)

    def forward(self, features_BLF: Tensor) -> Tensor:
        """Features (B, L, F) to tokens (B, 1 + P, D), CLS first, then the patches column by column."""
        return self.encode(self.embed(features_BLF))

    def layer_size(self, layer: int) -> LayerSize:
        """Every block has the encoder's own width and rows."""
        return LayerSize(self.width, self.num_rows)

    def forward_with_layers(self, features_BLF: Tensor, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """Tokens (B, 1 + P, D) of the last block, and of these blocks by number, from 1; see :class:`Encoder`."""
        tokens_BPD = self.prepare_tokens(self.embed(features_BLF))
        kept: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            tokens_BPD, _ = self._run(block, tokens_BPD)
            if number in layers:
                kept[number] = tokens_BPD
        return tokens_BPD, kept

    def architecture(self) -> dict[str, Any]:
        """Constructor arguments but ``drop_path`` and ``checkpoint_blocks``, which belong to a training recipe."""
        recipe = ("drop_path", "checkpoint_blocks")
        return {name: value for name, value in super().architecture().items() if name not in recipe}

    def compile_blocks(self) -> None:
        """Compile one block after the other: seconds instead of a minute, since all blocks share one graph."""
        for block in self.blocks:
            block.compile()


def instance_norm_over_tokens(tokens_BPD: Tensor, eps: float = 1e-5) -> Tensor:
    """Each clip's channels to zero mean and unit (biased) variance over its tokens, in float32."""
    return F.instance_norm(tokens_BPD.float().transpose(1, 2), eps=eps).transpose(1, 2)
