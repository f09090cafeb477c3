"""What is read of an encoder as the embedding of a clip: which layers, and how their tokens become one vector.

Shape letters: B clips, L frames, F mel bins, P patches, D width, W pooled width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from sslam.networks.audio_vit import Encoder, LayerSize
from sslam.networks.pooling import Pooling, pool_tokens, pooled_width


@dataclass(frozen=True)
class Readout:
    """Pooled tokens of the encoder's output, or of some of its layers, one after the other.

    Args:
        pooling: See :func:`~sslam.networks.pooling.pool_tokens`.
        layers: Numbers of layers, from 1, whose pooled tokens are concatenated in this order; None for the encoder's
            output.

    Raises:
        ValueError: If the pooling is unknown, or layers are none, below 1, or named twice.
    """

    pooling: Pooling = "cls"
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {self.pooling!r}.")
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))  # which can be compared and hashed
            if not self.layers or min(self.layers) < 1 or len(set(self.layers)) < len(self.layers):
                raise ValueError(f"layers must be one or more different numbers from 1, got {list(self.layers)}.")

    def __str__(self) -> str:
        """``cls``, ``mean of layers 4, 8``."""
        if self.layers is None:
            return self.pooling
        return f"{self.pooling} of layer{'s' * (len(self.layers) > 1)} {', '.join(map(str, self.layers))}"

    def stated(self) -> dict[str, Any]:
        """Plain values that a checkpoint states, ``pooling`` and, where some are chosen, ``layers``."""
        layers = {} if self.layers is None else {"layers": list(self.layers)}
        return {"pooling": self.pooling, **layers}

    def width(self, encoder: Encoder) -> int:
        """Size W of the vector.

        Raises:
            ValueError: If the encoder has no such layers, or does not say how many rows its tokens have.
        """
        return sum(pooled_width(size.width, self.pooling, size.num_rows) for size in self._sizes(encoder))

    def __call__(self, encoder: Encoder, features_BLF: Tensor) -> Tensor:
        """Features (B, L, F) of clips of one length to their vectors (B, W).

        Raises:
            ValueError: See :meth:`width`.
        """
        (pooled_BW,) = read_out(encoder, features_BLF, [self])
        return pooled_BW

    def of_tokens(self, encoder: Encoder, output_BPD: Tensor, tokens_of_layer: dict[int, Tensor]) -> Tensor:
        """Vectors (B, W) of tokens (B, 1 + P, D) that are there: the encoder's output, and those of its layers."""
        tokens = [output_BPD] if self.layers is None else [tokens_of_layer[layer] for layer in self.layers]
        pooled = [
            pool_tokens(tokens_BPD, self.pooling, size.num_rows)
            for tokens_BPD, size in zip(tokens, self._sizes(encoder), strict=True)
        ]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)

    def _sizes(self, encoder: Encoder) -> list[LayerSize]:
        if self.layers is not None:
            if max(self.layers) > getattr(encoder, "depth", max(self.layers)):
                raise ValueError(
                    f"layers must be at most {encoder.depth}, the number of layers of the {type(encoder).__name__}, "
                    f"got {list(self.layers)}."
                )
            return [encoder.layer_size(layer) for layer in self.layers]
        if self.pooling == "row_statistics" and not hasattr(encoder, "num_rows"):
            raise ValueError(
                f"{type(encoder).__name__} has no num_rows, the patches of a column of its tokens, which "
                "row_statistics needs. Set it in its constructor, or take pooling statistics."
            )
        return [LayerSize(encoder.width, getattr(encoder, "num_rows", 1))]


def read_out(encoder: Encoder, features_BLF: Tensor, readouts: Sequence[Readout]) -> list[Tensor]:
    """Vectors (B, W) of each readout, from one pass of features (B, L, F) through the encoder.

    Raises:
        ValueError: See :meth:`Readout.width`.
    """
    output_BPD, tokens_of_layer = encode(encoder, features_BLF, readouts)
    return [readout.of_tokens(encoder, output_BPD, tokens_of_layer) for readout in readouts]


def encode(encoder: Encoder, features_BLF: Tensor, readouts: Sequence[Readout]) -> tuple[Tensor, dict[int, Tensor]]:
    """The encoder's output (B, 1 + P, D), and by number the tokens of the layers that some of these readouts take.

    Raises:
        ValueError: See :meth:`Readout.width`.
    """
    for readout in readouts:
        readout.width(encoder)  # before a long pass
    wanted = {layer for readout in readouts for layer in readout.layers or ()}
    return encoder.forward_with_layers(features_BLF, wanted) if wanted else (encoder(features_BLF), {})
