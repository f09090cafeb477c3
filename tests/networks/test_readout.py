"""Readouts against loops over tokens in float64, for every encoder; gradients; what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslam.networks import CNN14, AudioViT, Encoder, MeanFeatures, Readout
from sslam.networks.pooling import pool_tokens, pooled_width
from sslam.networks.readout import read_out

TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
POOLINGS = ("cls", "mean", "both", "statistics", "row_statistics")


def brute_force(tokens: Tensor, pooling: str, num_rows: int) -> list[list[float]]:
    """Number by number, by the formulas."""
    vectors = []
    for clip in tokens.tolist():
        cls, patches = clip[0], clip[1:]
        rows = [patches[row::num_rows] for row in range(num_rows)]
        parts = {
            "cls": [cls],
            "mean": [[sum(column) / len(patches) for column in zip(*patches, strict=True)]],
            "statistics": _moments(patches),
            "row_statistics": [part for row in rows for part in _moments(row)],
        }
        parts["both"] = parts["cls"] + parts["mean"]
        vectors.append([number for part in parts[pooling] for number in part])
    return vectors


def _moments(patches: list[list[float]]) -> list[list[float]]:
    means = [sum(column) / len(patches) for column in zip(*patches, strict=True)]
    squares = [
        sum((value - mean) ** 2 for value in column)
        for column, mean in zip(zip(*patches, strict=True), means, strict=True)
    ]
    return [means, [(square / len(patches)) ** 0.5 for square in squares]]


def encoders() -> list[Encoder]:
    torch.manual_seed(0)
    vit = AudioViT(width=8, depth=3, num_heads=2, num_mel_bins=32)
    return [vit.double().eval(), CNN14(width=6, channels=(3, 4, 5), num_mel_bins=32).double(), MeanFeatures(32)]


@pytest.mark.parametrize("num_columns", [1, 2, 5])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pool_tokens__is_the_loop(pooling: Any, num_columns: int) -> None:
    tokens = torch.randn(3, 1 + num_columns * 4, 6, dtype=torch.float64)
    pooled = pool_tokens(tokens, pooling, num_rows=4)
    np.testing.assert_allclose(pooled, brute_force(tokens, pooling, 4), **TOLERANCE)
    assert pooled.shape == (3, pooled_width(6, pooling, 4))
    assert pooled.dtype == torch.float64


def test_pool_tokens__of_one_column_deviates_by_0() -> None:
    tokens = torch.randn(2, 1 + 3, 5)
    assert pool_tokens(tokens, "row_statistics", 3).unflatten(1, (3, 2, 5))[:, :, 1].eq(0).all()
    assert pool_tokens(tokens[:, :2], "statistics")[:, 5:].eq(0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-4, 1.0])
@pytest.mark.parametrize("pooling", ["statistics", "row_statistics"])
def test_pool_tokens__gradients_are_finite_where_nothing_varies(pooling: Any, scale: float) -> None:
    tokens = (1 + scale * torch.randn(2, 1 + 8, 4)).requires_grad_()
    pool_tokens(tokens, pooling, 2).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()


def test_pool_tokens__statistics_have_the_gradient_of_the_formula() -> None:
    tokens = torch.randn(2, 1 + 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: pool_tokens(given, "row_statistics", 2), tokens)


def test_pool_tokens__statistics_of_bfloat16_are_in_float32() -> None:
    tokens = torch.randn(2, 1 + 64, 3).bfloat16()
    pooled = pool_tokens(tokens, "statistics")
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled, brute_force(tokens.double(), "statistics", 1), rtol=1e-5)


@pytest.mark.parametrize("num_frames", [16, 33, 80])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_readout__of_any_encoder_and_length_is_the_loop_over_its_tokens(pooling: Any, num_frames: int) -> None:
    features = torch.randn(2, num_frames, 32, dtype=torch.float64)
    readout = Readout(pooling)
    for encoder, num_rows in zip(encoders(), (2, 8, 1), strict=True):
        with torch.no_grad():
            pooled = readout(encoder, features)
            np.testing.assert_allclose(pooled, brute_force(encoder(features), pooling, num_rows), **TOLERANCE)
        assert pooled.shape == (2, readout.width(encoder))


def test_row_statistics__of_a_transformer_are_of_bands_of_frequency() -> None:
    """Where the upper band alone varies over time, only the deviations of the upper row do."""
    vit = AudioViT(width=8, depth=1, num_heads=2, num_mel_bins=32)
    features = torch.zeros(1, 48, 32)
    features[:, :, 16:] = torch.randn(1, 48, 16)
    patches = vit.embed(features) - vit.positions[:6]
    moments = pool_tokens(torch.cat([patches[:, :1], patches], dim=1), "row_statistics", vit.num_rows)
    (lower, upper) = moments.reshape(2, 2, 8)[:, 1]
    assert lower.max() < 1e-6
    assert upper.min() > 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
def test_readout__of_layers_is_of_what_the_blocks_gave(pooling: Any) -> None:
    features = torch.randn(2, 40, 32, dtype=torch.float64)
    vit, cnn, _ = encoders()
    for encoder, rows in ((vit, [2, 2, 2]), (cnn, [32, 16, 8])):
        given: list[Tensor] = []

        def keep(module: Any, inputs: Any, output: Any, given: list[Tensor] = given) -> None:
            given.append(output[0] if isinstance(output, tuple) else output)

        hooks = [block.register_forward_hook(keep) for block in encoder.blocks]
        with torch.no_grad():
            output = encoder(features)
            for hook in hooks:
                hook.remove()
            if encoder is cnn:  # maps (B, C, time, frequency) to tokens
                maps = [block_map.permute(0, 2, 3, 1).flatten(1, 2) for block_map in given]
                given = [torch.cat([tokens.amax(dim=1, keepdim=True), tokens], dim=1) for tokens in maps]
            expected = [brute_force(tokens, pooling, num_rows) for tokens, num_rows in zip(given, rows, strict=True)]
            readout = Readout(pooling, [3, 1])
            pooled = readout(encoder, features)
            np.testing.assert_allclose(pooled, np.concatenate([expected[2], expected[0]], axis=1), **TOLERANCE)
            assert pooled.shape == (2, readout.width(encoder))
            # Several from one pass, of the output too.
            several = read_out(encoder, features, [Readout("mean"), readout, Readout(pooling, [2])])
            np.testing.assert_allclose(several[0], brute_force(output, "mean", 1), **TOLERANCE)
            assert torch.equal(several[1], pooled)
            np.testing.assert_allclose(several[2], expected[1], **TOLERANCE)


def test_readout__the_last_layer_of_a_transformer_is_its_output() -> None:
    vit, features = encoders()[0], torch.randn(1, 32, 32, dtype=torch.float64)
    assert torch.equal(Readout("cls", [3])(vit, features), Readout("cls")(vit, features))


def test_readout__is_a_value() -> None:
    assert Readout("mean", [4, 8]) == Readout("mean", (4, 8))
    assert {Readout("mean", [4, 8]), Readout("mean", (4, 8)), Readout()} == {Readout(), Readout("mean", (4, 8))}
    shown = [str(readout) for readout in (Readout(), Readout("mean", [4]), Readout("both", [4, 8]))]
    assert shown == ["cls", "mean of layer 4", "both of layers 4, 8"]


class Plain(Encoder):
    """An encoder of a user's own that says no more than it must."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.num_mel_bins, self.patch_size = 4, 8, 4

    def forward(self, features_BLF: Tensor) -> Tensor:
        return features_BLF.unflatten(1, (-1, 4)).mean(dim=2)[..., :4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Readout("max"), "pooling must be one of cls, mean, both, statistics, row_statistics, got 'max'."),  # type: ignore[arg-type]
        (lambda: Readout("cls", []), r"layers must be one or more different numbers from 1, got \[\]"),
        (lambda: Readout("cls", [0, 1]), r"different numbers from 1, got \[0, 1\]"),
        (lambda: Readout("cls", [2, 2]), r"different numbers from 1, got \[2, 2\]"),
        (
            lambda: Readout("cls", [1, 4]).width(encoders()[0]),
            "at most 3, the number of layers of the AudioViT",
        ),
        (
            lambda: Readout("cls", [1]).width(encoders()[2]),
            "at most 0, the number of layers of the MeanFeat",
        ),
        (lambda: Readout("cls", [1]).width(Plain()), "Plain does not offer the tokens of its layers. Leave layers out"),
        (lambda: Readout("row_statistics").width(Plain()), "Plain has no num_rows, .* or take pooling statistics."),
    ],
)
def test_readout__refuses(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_readout__of_a_plain_encoder() -> None:
    features = torch.randn(2, 16, 8, dtype=torch.float64)
    np.testing.assert_allclose(
        Readout("statistics")(Plain(), features),
        brute_force(Plain()(features), "statistics", 1),
        rtol=1e-12,
        atol=1e-13,
    )
