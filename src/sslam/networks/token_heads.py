"""Classifiers of all patch tokens, which a probe on pooled ones never sees, and how they are made.

Shape letters: B clips, P patches, D width, J prototypes, C classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslam.checks import at_least
from sslam.networks.audio_vit import LAYER_NORM_EPS
from sslam.networks.heads import Float32Linear

MOST_HEADS = 16


class TokenHead(nn.Module, ABC):
    """Base of the heads that take all tokens of a clip: they make one vector of these, and logits of that."""

    head: Float32Linear

    @abstractmethod
    def pool(self, tokens_BPD: Tensor) -> Tensor:
        """Tokens (B, 1 + P, D), CLS first, to the vectors (B, W) that the linear layer gets."""

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(self.pool(tokens_BPD).to(self.head.weight.dtype))
        return logits_BC


class TokenPooling:
    """Base of what a classifier can do with the tokens of a clip."""

    def new_head(self, width: int, num_classes: int, seed: int | None) -> TokenHead:
        """A head, tokens (B, 1 + P, D) to logits (B, C).

        Args:
            width: Token size D.
            num_classes: Number of classes C.
            seed: Seed of the initial weights; None takes torch's global generator.
        """
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            return self._build(width, num_classes)

    def _build(self, width: int, num_classes: int) -> TokenHead:
        raise NotImplementedError


@dataclass(frozen=True)
class AttentivePooling(TokenPooling):
    """One learnt query attends to the patches: :class:`AttentiveHead`.

    Args:
        num_heads: Attention heads, a divisor of the token size; None for the largest power of 2 up to 16 that is one.

    Raises:
        ValueError: If there is no head, or as the head is made they do not divide the token size.
    """

    num_heads: int | None = None

    def __post_init__(self) -> None:
        at_least(1, num_heads=self.num_heads)

    def _build(self, width: int, num_classes: int) -> TokenHead:
        num_heads = self.num_heads or min(MOST_HEADS, width & -width)
        if width % num_heads:
            raise ValueError(f"num_heads must divide the encoder's width {width}, got {num_heads}.")
        return AttentiveHead(width, num_classes, num_heads)


@dataclass(frozen=True)
class PrototypicalPooling(TokenPooling):
    """How near each of some learnt prototypes comes to any patch: :class:`PrototypicalHead`.

    Args:
        num_prototypes: Prototypes J, shared by all classes. 1024 is ours.
        binary: Compare with the prototypes' signs.

    Raises:
        ValueError: If there is no prototype.
    """

    num_prototypes: int = 1024
    binary: bool = True

    def __post_init__(self) -> None:
        at_least(1, num_prototypes=self.num_prototypes)

    def _build(self, width: int, num_classes: int) -> TokenHead:
        return PrototypicalHead(width, num_classes, self.num_prototypes, self.binary)


class AttentiveHead(TokenHead):
    """Attentive probe: LayerNorm, attention of one learnt query to the patches, LayerNorm, a linear layer.

    Keys and values are linear maps of the normalised patches, without the CLS token; the query is a vector that is
    learnt, and mapped too. Each of the heads weighs the patches by ``softmax(q k / sqrt(D / heads))``; their sums go,
    one after the other, through a linear map. (Chen et al. 2022, "Context Autoencoder", probe so with CLS among the
    tokens; there is no MLP here.)

    Args:
        width: Token size D.
        num_classes: Number of classes C.
        num_heads: Attention heads, a divisor of ``width``.
    """

    def __init__(self, width: int, num_classes: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.fc_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.head = _linear(width, num_classes)

    def pool(self, tokens_BPD: Tensor) -> Tensor:
        patches_BPD = self.norm(tokens_BPD[:, 1:])
        query_B1D = self.query.expand(len(patches_BPD), -1, -1)
        attended_B1D, _ = self.attention(query_B1D, patches_BPD, patches_BPD, need_weights=False)
        pooled_BD: Tensor = self.fc_norm(attended_B1D[:, 0])
        return pooled_BD


class PrototypicalHead(TokenHead):
    """Prototypical probe: the highest cosine of each prototype with any patch, then a linear layer.

    After Rauch et al. 2025 (arXiv 2509.24901), who find it better than attention: prototypes that no class owns are
    made binary in every pass by their signs (0 counts as positive; the gradient passes the sign unchanged), compared
    by their cosine with all patches, without the CLS token, and the maximum over the patches is the prototype's score.
    Written from the abstract and summaries of the paper: number and initialisation (standard normal) of the prototypes
    and the optimiser are ours.

    Args:
        width: Token size D.
        num_classes: Number of classes C.
        num_prototypes: Prototypes J.
        binary: Whether the prototypes' signs are compared, or the prototypes themselves.
    """

    def __init__(self, width: int, num_classes: int, num_prototypes: int, binary: bool = True) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(num_prototypes, width))
        self.binary = binary
        self.head = _linear(num_prototypes, num_classes)

    def pool(self, tokens_BPD: Tensor) -> Tensor:
        prototypes_JD: Tensor = self.prototypes
        if self.binary:
            signs_JD = torch.where(prototypes_JD >= 0, 1.0, -1.0)
            prototypes_JD = prototypes_JD + (signs_JD - prototypes_JD).detach()
        patches_BPD = F.normalize(tokens_BPD[:, 1:], dim=-1)
        cosine_BPJ = patches_BPD @ F.normalize(prototypes_JD, dim=-1).T
        return cosine_BPJ.amax(dim=1)


def _linear(width: int, num_classes: int) -> Float32Linear:
    """The last layer, initialised as that of the linear probe."""
    layer = Float32Linear(width, num_classes)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
