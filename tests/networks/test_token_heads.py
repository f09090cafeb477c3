"""Heads of all tokens against loops in float64, and how they are made."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sslam.networks import AttentivePooling, PrototypicalPooling

POOLINGS = [AttentivePooling(num_heads=2), PrototypicalPooling(6), PrototypicalPooling(6, binary=False)]


def head_of(pooling: Any, seed: int = 0) -> Any:
    head = pooling.new_head(8, 3, seed).double()
    for name, parameter in head.named_parameters():  # also those that begin at 0 or 1
        if name != "prototypes":
            torch.nn.init.normal_(parameter)
    return head


def layer_norm(vector: list[float], norm: Any) -> list[float]:
    mean = sum(vector) / len(vector)
    variance = sum((value - mean) ** 2 for value in vector) / len(vector)
    affine = zip(vector, norm.weight.tolist(), norm.bias.tolist(), strict=True)
    return [(value - mean) / math.sqrt(variance + 1e-6) * gain + offset for value, gain, offset in affine]


def linear(vector: list[float], weight: Tensor, bias: Tensor) -> list[float]:
    rows = zip(weight.tolist(), bias.tolist(), strict=True)
    return [sum(a * b for a, b in zip(row, vector, strict=True)) + offset for row, offset in rows]


def test_attentive_head__is_the_loop() -> None:
    head, tokens = head_of(POOLINGS[0]), torch.randn(2, 1 + 5, 8, dtype=torch.float64)
    attention = head.attention
    query_weight, key_weight, value_weight = attention.in_proj_weight.chunk(3)
    query_bias, key_bias, value_bias = attention.in_proj_bias.chunk(3)
    logits = head(tokens)
    for clip, found in zip(tokens.tolist(), logits.tolist(), strict=True):
        patches = [layer_norm(patch, head.norm) for patch in clip[1:]]
        query = linear(head.query.flatten().tolist(), query_weight, query_bias)
        keys = [linear(patch, key_weight, key_bias) for patch in patches]
        values = [linear(patch, value_weight, value_bias) for patch in patches]
        sums = []
        for part in (slice(0, 4), slice(4, 8)):
            scores = [math.exp(sum(a * b for a, b in zip(query[part], key[part], strict=True)) / 2) for key in keys]
            shares = [score / sum(scores) for score in scores]
            sums += [
                sum(share * value for share, value in zip(shares, column, strict=True))
                for column in zip(*(value[part] for value in values), strict=True)
            ]
        attended = linear(sums, attention.out_proj.weight, attention.out_proj.bias)
        expected = linear(layer_norm(attended, head.fc_norm), head.head.weight.float(), head.head.bias.float())
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_prototypical_head__is_the_loop(binary: bool) -> None:
    head, tokens = head_of(PrototypicalPooling(6, binary)), torch.randn(2, 1 + 5, 8, dtype=torch.float64)
    with torch.no_grad():
        head.prototypes[0, 0] = 0  # counts as positive
    logits = head(tokens)
    for clip, found in zip(tokens.tolist(), logits.tolist(), strict=True):
        nearest = []
        for prototype in head.prototypes.tolist():
            if binary:
                prototype = [1.0 if value >= 0 else -1.0 for value in prototype]
            cosines = [
                sum(a * b for a, b in zip(prototype, patch, strict=True))
                / (math.hypot(*prototype) * math.hypot(*patch))
                for patch in clip[1:]
            ]
            nearest.append(max(cosines))
        assert found == pytest.approx(linear(nearest, head.head.weight, head.head.bias), rel=1e-4, abs=1e-5)


def test_prototypical_head__the_gradient_passes_the_sign() -> None:
    head = head_of(PrototypicalPooling(6))
    before = head.prototypes.detach().clone()
    tokens = torch.randn(4, 1 + 5, 8, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(head(tokens).square().sum(), head.prototypes)
    with torch.no_grad():
        head.prototypes.copy_(torch.where(before >= 0, 1.0, -1.0))
    head.binary = False  # at the signs themselves
    (expected,) = torch.autograd.grad(head(tokens).square().sum(), head.prototypes)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_token_heads__take_any_length_and_no_cls(pooling: Any) -> None:
    head = head_of(pooling)
    for num_patches in (1, 7):
        tokens = torch.randn(2, 1 + num_patches, 8, dtype=torch.float64)
        logits = head(tokens)
        assert logits.shape == (2, 3)
        changed = tokens.clone()
        changed[:, 0] = 5.0
        assert torch.equal(head(changed), logits)
        order = [0, *(1 + torch.randperm(num_patches)).tolist()]
        torch.testing.assert_close(head(tokens[:, order]), logits)


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_new_head__weights_are_of_the_seed_alone(pooling: Any) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (pooling.new_head(8, 3, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    pooling.new_head(8, 3, None)
    assert not torch.equal(torch.get_rng_state(), state)  # torch's own generator


@pytest.mark.parametrize(("width", "num_heads"), [(768, 16), (20, 4), (64, 16), (7, 1)])
def test_attentive_pooling__heads_divide_the_width(width: int, num_heads: int) -> None:
    assert AttentivePooling().new_head(width, 2, 0).attention.num_heads == num_heads  # type: ignore[union-attr]


def test_token_pooling__refuses() -> None:
    with pytest.raises(ValueError, match="num_heads must divide the encoder's width 20, got 8."):
        AttentivePooling(8).new_head(20, 2, 0)
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0."):
        AttentivePooling(0)
    with pytest.raises(ValueError, match="num_prototypes must be at least 1, got 0."):
        PrototypicalPooling(0)
