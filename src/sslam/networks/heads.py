"""Heads on an encoder: the classifier, and those of contrastive learning (Fonseca et al. 2021, sec. 4.2).

The latter are used in training only: embeddings are taken below them.

Shape letters: B and N clips, R rows of a chunk, D width, W pooled width, H hidden width, C classes.
"""

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sslam.networks.audio_vit import LAYER_NORM_EPS
from sslam.rebuildable import Rebuildable

Normalisation = Literal["layer_norm", "l2", "standardise"]

# Share of a number's mean below which its deviation over clips is rounding: a network's sums in float32.
ROUNDING = 1e-5
# Pairs whose hidden layers are held at once: 32 MiB per layer at the published 512 units.
PAIRS_AT_ONCE = 2**14


class UnitLength(nn.Module):
    """Embeddings (..., W) divided by their Euclidean norm; zeros stay zeros."""

    def forward(self, embedding: Tensor) -> Tensor:
        return F.normalize(embedding, dim=-1)


class Standardise(nn.Module):
    """Embeddings (..., W) minus ``mean`` (W,), divided by ``std`` (W,): of the training clips, and they do not learn.

    Args:
        width: Size W of the embeddings.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, embedding: Tensor) -> Tensor:
        return (embedding - self.mean) / self.std

    @staticmethod
    def statistics(embedding_NW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n in the denominator) over clips, both (W,).

        A number in which they differ by rounding alone has deviation 1, lest noise be blown up.
        """
        std_W, mean_W = torch.std_mean(embedding_NW, dim=0, correction=0)
        return mean_W, torch.where(std_W > ROUNDING * mean_W.abs(), std_W, 1.0)


class Float32Linear(nn.Linear):
    """A linear layer that autocast leaves alone: scores rounded to bfloat16 tie, which moves average precision."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input)


class ClassifierHead(Rebuildable, nn.Sequential):
    """Pooled tokens (B, W), float32, to logits (B, C): normalisation, a hidden layer with ReLU if wanted, a linear one.

    The layers are ``fc_norm``, ``hidden`` and ``head``, the first and last of them as in published fine-tuned files.
    Initial weights of the last one are normal with standard deviation 0.02 (cut off far out), as published.

    Args:
        width: Pooled width W.
        num_classes: Number of classes C.
        seed: Seed of the initial weights; None takes torch's global generator.
        hidden_width: Units H of the hidden layer; None for a linear classifier.
        normalisation: ``layer_norm`` with a gain and an offset that are learnt, ``l2``: to length 1, or
            ``standardise``: each number by its mean and deviation over the training clips, which whoever trains sets.
    """

    fc_norm: nn.LayerNorm | UnitLength | Standardise
    head: Float32Linear

    def __init__(
        self,
        width: int,
        num_classes: int,
        seed: int | None = None,
        hidden_width: int | None = None,
        normalisation: Normalisation = "layer_norm",
    ) -> None:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if normalisation == "layer_norm":
            layers["fc_norm"] = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        else:
            layers["fc_norm"] = UnitLength() if normalisation == "l2" else Standardise(width)
        if hidden_width is not None:
            layers["hidden"] = hidden = Float32Linear(width, hidden_width)
            nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(hidden.bias)
            layers["relu"] = nn.ReLU()
        layers["head"] = head = Float32Linear(hidden_width or width, num_classes)
        nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
        nn.init.zeros_(head.bias)
        super().__init__(layers)


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
