"""Attention, MLP and stochastic depth of a transformer block, with the parameter names of published checkpoints.

Those of timm, whose import would take longer than all else that `sslam fit` imports.

Shape letters: B clips, P tokens, D width, H heads, K width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST_PLAIN = 600  # tokens, a clip of 10 s has 513; the scores of longer ones take too much memory


def attend(queries_BHPK: Tensor, keys_BHPK: Tensor, values_BHPK: Tensor) -> Tensor:
    """Scaled dot-product attention, (B, H, P, K) each; in bfloat16 on a CPU as plain products.

    PyTorch's fused one takes up to four times as long there, backward most of all.
    """
    num_tokens, head_width = queries_BHPK.shape[2:]
    if queries_BHPK.dtype != torch.bfloat16 or queries_BHPK.device.type != "cpu" or num_tokens > LONGEST_PLAIN:
        return F.scaled_dot_product_attention(queries_BHPK, keys_BHPK, values_BHPK)
    with torch.autocast("cpu", enabled=False):  # which would take the softmax to float32 and back
        scores_BHPP = (queries_BHPK * head_width**-0.5) @ keys_BHPK.transpose(2, 3)
        return scores_BHPP.softmax(dim=-1) @ values_BHPK


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, P, D).

    Args:
        width: Token size D, a multiple of ``num_heads``.
        num_heads: Attention heads H.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        """Tokens (B, P, D) to tokens (B, P, D)."""
        queries_BHPK, keys_BHPK, values_BHPK = (
            self.qkv(tokens_BPD).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )
        attended_BHPK = attend(queries_BHPK, keys_BHPK, values_BHPK)
        return self.proj(attended_BHPK.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two dense layers over tokens (B, P, D), with a GELU between them.

    Args:
        width: Token size D.
        hidden_width: Size between the layers.
    """

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        """Tokens (B, P, D) to tokens (B, P, D)."""
        return self.fc2(F.gelu(self.fc1(tokens_BPD)))


class DropPath(nn.Module):
    """Stochastic depth: in training a clip's share of a residual sum is left out by chance, and else scaled up.

    Args:
        drop_prob: Probability of leaving it out, at least 0 and below 1.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        """Tokens (B, P, D) to tokens (B, P, D)."""
        if not self.training:
            return tokens_BPD
        kept_B11 = tokens_BPD.new_empty(len(tokens_BPD), 1, 1).bernoulli_(1 - self.drop_prob)
        return tokens_BPD * kept_B11.div_(1 - self.drop_prob)
