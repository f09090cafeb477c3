"""Attention, against the sums in its definition."""

import pytest
import torch

from sslam.networks import attention as module
from sslam.networks.attention import Attention, attend


def test_attention__is_the_softmax_of_the_products_of_each_head() -> None:
    torch.manual_seed(0)
    attention = Attention(width=6, num_heads=2)
    tokens_BPD = torch.randn(2, 5, 6)
    queries, keys, values = attention.qkv(tokens_BPD).chunk(3, dim=2)
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        scores_BPP = queries[..., head] @ keys[..., head].transpose(1, 2) / 3**0.5
        heads.append(scores_BPP.softmax(dim=-1) @ values[..., head])
    torch.testing.assert_close(attention(tokens_BPD), attention.proj(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize("num_tokens", [7, module.LONGEST_PLAIN + 1])
def test_attend__bf16_on_a_cpu_is_as_exact_as_the_fused_one(num_tokens: int) -> None:
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, num_tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    weights = torch.randn(2, 3, num_tokens, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended = attend(*rounded)
    assert attended.dtype == torch.bfloat16
    wanted = torch.nn.functional.scaled_dot_product_attention(*exact)
    (attended * weights).sum().backward()
    (wanted * weights).sum().backward()
    found, references = [attended, *(it.grad for it in rounded)], [wanted, *(it.grad for it in exact)]
    for ours, reference in zip(found, references, strict=True):
        assert ours is not None
        assert reference is not None
        torch.testing.assert_close(ours.double(), reference, atol=0.02 * reference.abs().max().item(), rtol=0)


def test_attend__does_without_the_fused_one_in_bf16_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("fused")

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", slow)
    tokens = torch.randn(1, 2, 5, 4)
    assert attend(*[tokens.bfloat16()] * 3).shape == tokens.shape
    with pytest.raises(AssertionError, match="fused"):
        attend(tokens, tokens, tokens)
    with pytest.raises(AssertionError, match="fused"):
        attend(*[tokens.bfloat16().to("meta")] * 3)
