"""Classifiers on kept tokens: one, and several that are computed at once.

Shape letters: R probes, B clips of a batch, N clips, W pooled width, H hidden units, C classes.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslam.methods.classifier import Head, new_head
from sslam.networks.audio_vit import LAYER_NORM_EPS

Normalisation = Literal["layer_norm", "l2"]


class UnitLength(nn.Module):
    """Embeddings (..., W) divided by their Euclidean norm; zeros stay zeros."""

    def forward(self, embedding: Tensor) -> Tensor:
        return F.normalize(embedding, dim=-1)


class Probe(nn.Module):
    """Pooled tokens (B, W) to logits (B, C): normalisation, a hidden layer with ReLU if there is one, a linear layer.

    Args:
        width: W.
        num_classes: C.
        seed: Of the initial weights.
        hidden_width: H, or None for no hidden layer.
        normalisation: ``layer_norm`` with a gain and an offset that are learnt, or ``l2``: to length 1.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        seed: int,
        hidden_width: int | None = None,
        normalisation: Normalisation = "layer_norm",
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.fc_norm = UnitLength() if normalisation == "l2" else nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.hidden: Head | None = None
        if hidden_width is not None:
            self.hidden = Head(width, hidden_width)
            nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(self.hidden.bias)
        self.head = new_head(hidden_width or width, num_classes, generator)

    def forward(self, embedding_BW: Tensor) -> Tensor:
        normed_BW = self.fc_norm(embedding_BW)
        if self.hidden is not None:
            normed_BW = F.relu(self.hidden(normed_BW))
        logits_BC: Tensor = self.head(normed_BW)
        return logits_BC


class StackedProbes(nn.Module):
    """R probes that are computed at once, each from clips of its own: (R, B, W) to (R, B, C).

    Args:
        probes: Their initial weights; all of one shape.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        super().__init__()
        self.weight_RCW = stacked([probe.head.weight for probe in probes])
        self.bias_R1C = stacked([probe.head.bias for probe in probes])
        self.hidden_RHW, self.hidden_R1H, self.gain_R1W, self.offset_R1W = None, None, None, None
        hidden = [probe.hidden for probe in probes if probe.hidden is not None]
        norms = [probe.fc_norm for probe in probes if isinstance(probe.fc_norm, nn.LayerNorm)]
        if hidden:
            self.hidden_RHW = stacked([layer.weight for layer in hidden])
            self.hidden_R1H = stacked([layer.bias for layer in hidden])
        if norms:
            self.gain_R1W = stacked([norm.weight for norm in norms])
            self.offset_R1W = stacked([norm.bias for norm in norms])

    def forward(self, embedding_RBW: Tensor) -> Tensor:
        if self.gain_R1W is None or self.offset_R1W is None:
            normed_RBW = F.normalize(embedding_RBW, dim=-1)
        else:
            normed_RBW = normalise(embedding_RBW) * self.gain_R1W + self.offset_R1W
        if self.hidden_RHW is not None and self.hidden_R1H is not None:
            normed_RBW = F.relu(torch.baddbmm(self.hidden_R1H, normed_RBW, self.hidden_RHW.mT))
        return torch.baddbmm(self.bias_R1C, normed_RBW, self.weight_RCW.mT)

    def matrices(self) -> list[nn.Parameter]:
        """What weight decay is for."""
        return [matrix for matrix in (self.weight_RCW, self.hidden_RHW) if matrix is not None]

    def vectors(self) -> list[nn.Parameter]:
        """Gains, offsets and biases."""
        vectors = (self.gain_R1W, self.offset_R1W, self.bias_R1C, self.hidden_R1H)
        return [vector for vector in vectors if vector is not None]

    @torch.no_grad()
    def standardise(self, replica: int, embedding_NW: Tensor) -> None:
        """Set a norm's gain and offset so that over these clips each of its outputs has mean 0 and deviation 1."""
        assert self.gain_R1W is not None
        assert self.offset_R1W is not None
        deviation_W, mean_W = torch.std_mean(normalise(embedding_NW), dim=0, correction=0)
        # A direction in which clips differ by rounding alone must not be blown up.
        self.gain_R1W[replica] = 1 / deviation_W.clamp(min=1e-5)
        self.offset_R1W[replica] = -mean_W * self.gain_R1W[replica]

    @torch.no_grad()
    def copy_to(self, probes: Iterable[nn.Module]) -> None:
        """Give single probes the weights that were learnt here."""
        for replica, probe in enumerate(probes):
            assert isinstance(probe, Probe)
            probe.head.weight.copy_(self.weight_RCW[replica])
            probe.head.bias.copy_(self.bias_R1C[replica, 0])
            if probe.hidden is not None:
                assert self.hidden_RHW is not None
                assert self.hidden_R1H is not None
                probe.hidden.weight.copy_(self.hidden_RHW[replica])
                probe.hidden.bias.copy_(self.hidden_R1H[replica, 0])
            if isinstance(probe.fc_norm, nn.LayerNorm):
                assert self.gain_R1W is not None
                assert self.offset_R1W is not None
                probe.fc_norm.weight.copy_(self.gain_R1W[replica, 0])
                probe.fc_norm.bias.copy_(self.offset_R1W[replica, 0])


def stacked(tensors: Sequence[Tensor]) -> nn.Parameter:
    """Matrices to (R, ...), vectors to (R, 1, ...), so that these broadcast over clips."""
    stack = torch.stack([tensor.detach().clone() for tensor in tensors])
    return nn.Parameter(stack.unsqueeze(1) if stack.ndim == 2 else stack)


def normalise(embedding: Tensor) -> Tensor:
    """LayerNorm without gain and offset over the last dimension."""
    return F.layer_norm(embedding, embedding.shape[-1:], eps=LAYER_NORM_EPS)
