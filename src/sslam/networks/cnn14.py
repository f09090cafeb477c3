"""CNN14 as the encoder of separation-based contrastive learning: without batch norm and dropout.

Shape letters: B clips, L frames, F mel bins, C channels, H time and W frequency of a feature map, P positions, D width.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslam.checks import at_least
from sslam.networks.audio_vit import Encoder, LayerSize


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions, each followed by ReLU.

    Args:
        in_channels: Channels of the feature map that comes in.
        out_channels: Channels of the feature map that goes out, which has the same size.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(map_BCHW))))


class CNN14(Encoder):
    """Convolutional encoder (Kong et al. 2020) with the changes of Fonseca et al. 2021 sec. 4.2.

    Six blocks of two 3 x 3 convolutions with ReLU, 2 x 2 average pooling between them; then, in the place of CNN14's
    two dense layers, an embedding convolution with ``width`` filters and global max pooling over time and frequency.
    There is no batch norm and no dropout. 96 x 64 features end as a map of 3 x 2 positions.

    The paper states 76 M weights at a width of 128. The blocks have 75.46 M; an embedding convolution of 1 x 1 adds
    0.26 M, with biases 75.73 M altogether, while one of 3 x 3 would make it 77.8 M: hence 1 x 1. It has no ReLU, since
    the paper names none. Without batch norm the convolutions need biases, and weights that keep the signal's size
    through twelve layers: He's normal initialisation, biases 0.

    As an :class:`~sslam.networks.Encoder` it gives tokens: first the global maximum, which is the published embedding
    (pooling ``cls``), then the positions of the map, column by column as the patches of
    :class:`~sslam.networks.AudioViT` (their mean is the pooling ``mean``).

    Args:
        width: Size D of the embedding: published 128 and 1024.
        channels: Channels of the feature maps, block by block; fewer and smaller numbers for quick runs.
        num_mel_bins: Mel bins F of the features.

    Raises:
        ValueError: If a size is not positive or there are too few mel bins for the poolings.
    """

    def __init__(
        self,
        width: int = 128,
        channels: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
        num_mel_bins: int = 64,
    ) -> None:
        super().__init__()
        at_least(1, width=width)
        if not channels or min(channels) < 1:
            raise ValueError(f"channels must be one or more positive numbers, got {list(channels)}.")
        self.width = width
        self.channels = list(channels)
        self.depth = len(self.channels)
        self.num_mel_bins = num_mel_bins
        self.patch_size = 2 ** (self.depth - 1)
        """Frames and mel bins to a position, and so the smallest input."""
        self.num_rows = num_mel_bins // self.patch_size
        if num_mel_bins < self.patch_size:
            raise ValueError(
                f"num_mel_bins must be at least {self.patch_size} for the poolings between {self.depth} blocks, got "
                f"{num_mel_bins}. Give fewer channels."
            )
        self.blocks = nn.ModuleList(
            ConvBlock(before, after) for before, after in zip([1, *self.channels], self.channels, strict=False)
        )
        self.embedding = nn.Conv2d(self.channels[-1], width, kernel_size=1)
        for convolution in self.modules():
            if isinstance(convolution, nn.Conv2d):
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                assert convolution.bias is not None
                nn.init.zeros_(convolution.bias)
        # No ReLU follows it.
        nn.init.kaiming_normal_(self.embedding.weight, nonlinearity="linear")

    def layer_size(self, layer: int) -> LayerSize:
        """Channels of a block's map, and its positions over frequency, which the poolings halve."""
        return LayerSize(self.channels[layer - 1], self.num_mel_bins >> (layer - 1))

    def embedding_map(self, features_BLF: Tensor) -> Tensor:
        """Features (B, L, F) to the embedding of every position (B, D, L // patch_size, F // patch_size).

        Raises:
            ValueError: If the mel bins differ from ``num_mel_bins`` or there are too few frames for the poolings.
        """
        return self._maps(features_BLF, ())[0]

    def _maps(self, features_BLF: Tensor, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """The embedding of every position, and the maps (B, C, H, W) of these blocks."""
        self.check_mel_bins(features_BLF)
        if (num_frames := features_BLF.shape[1]) < self.patch_size:
            raise ValueError(
                f"A clip must have at least {self.patch_size} frames for the poolings between {self.depth} blocks, got "
                f"{num_frames}. Use longer crops or give the encoder fewer channels."
            )
        map_BCHW = features_BLF.unsqueeze(1)
        kept: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            map_BCHW = block(map_BCHW if number == 1 else F.avg_pool2d(map_BCHW, kernel_size=2))
            if number in layers:
                kept[number] = map_BCHW
        return self.embedding(map_BCHW), kept

    def forward(self, features_BLF: Tensor) -> Tensor:
        """Features (B, L, F) to tokens (B, 1 + P, D): their maximum, then the positions; see :meth:`embedding_map`."""
        return _tokens(self.embedding_map(features_BLF))

    def forward_with_layers(self, features_BLF: Tensor, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """As :meth:`forward`, and the same of the maps of these blocks, of which a lower one has more positions."""
        embedding_BDHW, maps = self._maps(features_BLF, layers)
        return _tokens(embedding_BDHW), {layer: _tokens(map_BCHW) for layer, map_BCHW in maps.items()}


def _tokens(map_BCHW: Tensor) -> Tensor:
    """The maximum over a map's positions, then the positions: (B, 1 + P, C)."""
    positions_BPC = map_BCHW.flatten(2).transpose(1, 2)
    return torch.cat([positions_BPC.amax(dim=1, keepdim=True), positions_BPC], dim=1)
