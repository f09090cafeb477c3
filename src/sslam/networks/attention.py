"""Self-attention with the parameter names of timm's and of published checkpoints, in the way that is fast on a CPU too.

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
