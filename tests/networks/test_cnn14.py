"""CNN14: the published size, the formula in plain numpy, its tokens, initial signal, messages, and that it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from sslam.networks import CNN14, Encoder
from sslam.networks.pooling import pool_tokens

BLOCKS = Path(__file__).parents[2] / "experiments" / "blocks"


def tiny(width: int = 6, num_mel_bins: int = 16) -> CNN14:
    torch.manual_seed(0)
    return CNN14(width=width, channels=(4, 5, 7), num_mel_bins=num_mel_bins)


def naive_conv(image: NDArray[np.float64], convolution: torch.nn.Conv2d) -> NDArray[np.float64]:
    """Channels x height x width, zeros around it, position by position."""
    weight, bias = (tensor.detach().numpy() for tensor in (convolution.weight, convolution.bias))  # type: ignore[union-attr]
    kernel = weight.shape[-1]
    padded = np.pad(image, ((0, 0), (kernel // 2, kernel // 2), (kernel // 2, kernel // 2)))
    output = np.empty((len(weight), *image.shape[1:]))
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            window = padded[:, row : row + kernel, column : column + kernel]
            output[:, row, column] = (weight * window).sum(axis=(1, 2, 3)) + bias
    return output


def naive_embedding(encoder: CNN14, features: NDArray[np.float64]) -> NDArray[np.float64]:
    image = features[None]
    for layer, block in enumerate(encoder.blocks):
        if layer:
            height, width = image.shape[1] // 2, image.shape[2] // 2
            image = image[:, : 2 * height, : 2 * width].reshape(len(image), height, 2, width, 2).mean(axis=(2, 4))
        for convolution in (block.conv1, block.conv2):
            image = np.maximum(naive_conv(image, convolution), 0)
    return naive_conv(image, encoder.embedding).max(axis=(1, 2))


@pytest.mark.parametrize(("width", "weights"), [(128, 75_731_520), (1024, 77_567_424)])
def test_cnn14__published_sizes(width: int, weights: int) -> None:
    with torch.device("meta"):
        encoder = CNN14(width=width)
    found = sum(parameter.numel() for parameter in encoder.parameters())
    assert found == weights
    if width == 128:
        assert round(found / 1e6) == 76
    assert not any(isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout) for module in encoder.modules())


@pytest.mark.parametrize(("name", "millions"), [("cnn14", 75.7), ("cnn14_quick", 1.21)])
def test_cnn14__yaml_blocks_have_their_size(name: str, millions: float) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=Encoder, enable_path=True)
    with torch.device("meta"):
        encoder = parser.instantiate_classes(parser.parse_args(["--encoder", str(BLOCKS / f"{name}.yaml")])).encoder
    assert isinstance(encoder, CNN14)
    assert encoder.width == 128
    assert sum(parameter.numel() for parameter in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


def test_cnn14__snippets_of_the_paper_become_3_x_2_positions() -> None:
    with torch.device("meta"):
        encoder = CNN14()
        assert encoder.embedding_map(torch.empty(2, 96, 64)).shape == (2, 128, 3, 2)
        assert encoder(torch.empty(2, 96, 64)).shape == (2, 7, 128)
    assert (encoder.width, encoder.depth, encoder.num_mel_bins, encoder.patch_size) == (128, 6, 64, 32)


@pytest.mark.parametrize(("frames", "bins"), [(12, 16), (13, 18), (4, 4)])
def test_cnn14__cls_token_is_the_formula(frames: int, bins: int) -> None:
    encoder = tiny(num_mel_bins=bins).double()
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases too
            parameter.add_(0.1 * torch.randn_like(parameter))
    features = torch.randn(2, frames, bins, dtype=torch.float64)
    embedding = pool_tokens(encoder(features), "cls")
    for clip in range(2):
        np.testing.assert_allclose(
            embedding[clip].detach(), naive_embedding(encoder, features[clip].numpy()), atol=1e-10
        )


def test_cnn14__other_tokens_are_the_positions_column_by_column() -> None:
    encoder = tiny()
    features = torch.randn(2, 13, 16)
    tokens, positions = encoder(features), encoder.embedding_map(features)
    assert tokens.shape == (2, 1 + 3 * 4, 6)
    for column in range(3):
        for row in range(4):
            assert torch.equal(tokens[:, 1 + column * 4 + row], positions[:, :, column, row])
    torch.testing.assert_close(pool_tokens(tokens, "mean"), positions.mean(dim=(2, 3)))
    assert pool_tokens(tokens, "both").shape == (2, 12)
    torch.nn.init.constant_(encoder.embedding.bias, -10.0)
    torch.testing.assert_close(encoder(features), tokens - 10)  # no ReLU at the end


def test_cnn14__a_clip_alone_or_in_a_batch() -> None:
    encoder = tiny().eval()
    features = torch.randn(3, 12, 16)
    torch.testing.assert_close(encoder(features)[1:2], encoder(features[1:2]))
    assert torch.equal(encoder(features), encoder.train()(features))


def test_cnn14__initialisation_keeps_the_signal_through_all_layers() -> None:
    torch.manual_seed(0)
    encoder = CNN14(channels=(16, 32, 64, 128, 128, 128))
    for block in encoder.blocks:
        fan_in = block.conv2.weight[0].numel()
        assert block.conv2.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
        assert block.conv1.bias.abs().max() == block.conv2.bias.abs().max() == 0
    assert encoder.embedding.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    with torch.no_grad():
        embedding = encoder(torch.randn(8, 96, 64))[:, 0]
    assert 0.03 < embedding.square().mean().sqrt() < 3


def test_cnn14__gradients_are_those_of_the_function() -> None:
    encoder = CNN14(width=2, channels=(2, 3), num_mel_bins=4).double()
    features = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(encoder, features)


def test_cnn14__over_fits_a_few_clips() -> None:
    """With the published depth, from its initial weights."""
    torch.manual_seed(0)
    encoder = CNN14(width=8, channels=(4, 8, 8, 16, 16, 32), num_mel_bins=32)
    features, labels = 3 * torch.randn(8, 64, 32) - 4, torch.arange(8)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(encoder(features)[:, 0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_architecture__builds_an_encoder_that_takes_the_weights() -> None:
    encoder = tiny()
    again = CNN14(**encoder.architecture())
    again.load_state_dict(encoder.state_dict())
    features = torch.randn(1, 12, 16)
    assert torch.equal(encoder(features), again(features))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0."),
        ({"channels": ()}, r"channels must be one or more positive numbers, got \[\]."),
        ({"channels": (8, 0)}, r"channels must be one or more positive numbers, got \[8, 0\]."),
        (
            {"num_mel_bins": 16},
            "num_mel_bins must be at least 32 for the poolings between 6 blocks, got 16. Give fewer",
        ),
    ],
)
def test_cnn14__sizes_that_cannot_be_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNN14(**{"channels": (1, 1, 1, 1, 1, 1)} | arguments)  # type: ignore[arg-type]


def test_cnn14__features_that_do_not_fit_are_refused() -> None:
    encoder = tiny()
    with pytest.raises(ValueError, match="built for 16 mel bins, got features with 64. Give the front end and"):
        encoder(torch.zeros(1, 12, 64))
    with pytest.raises(
        ValueError, match="A clip must have at least 4 frames for the poolings between 3 blocks, got 3."
    ):
        encoder(torch.zeros(1, 3, 16))
