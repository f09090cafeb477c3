"""The encoder: positions, shapes, selection of patches, messages."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sslam.networks import AudioViT
from sslam.networks.audio_vit import sincos_positions_2d

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "sslam_misc.npz")


def test_sincos_positions_2d__matches_the_published_table() -> None:
    positions = sincos_positions_2d(768, 768, 8).numpy()
    np.testing.assert_allclose(positions[[0, 8, 17, 511, -1]], REFERENCE["pos_rows0_8_17_511_full"], atol=1e-6)
    np.testing.assert_allclose(positions[::37, ::53], REFERENCE["pos_768x8_grid"], atol=1e-6)
    assert np.linalg.norm(positions) == pytest.approx(1536.0, rel=1e-5)


def test_sincos_positions_2d__shorter_clips_have_the_first_rows() -> None:
    torch.testing.assert_close(sincos_positions_2d(64, 5, 8), sincos_positions_2d(64, 9, 8)[:40], rtol=0, atol=0)


def test_audio_vit__published_sizes() -> None:
    with torch.device("meta"):
        base = AudioViT()
    assert sum(parameter.numel() for parameter in base.parameters()) == 89972736 - 6144 * 768  # without positions


@pytest.mark.parametrize(("frames", "tokens"), [(1024, 513), (512, 257), (128, 65), (130, 65)])
def test_audio_vit__token_counts(frames: int, tokens: int) -> None:
    encoder = AudioViT(width=16, depth=1, num_heads=2)
    assert encoder(torch.zeros(1, frames, 128)).shape == (1, tokens, 16)


def test_audio_vit__two_minutes() -> None:
    encoder = AudioViT(width=8, depth=1, num_heads=1)
    assert encoder.embed(torch.zeros(1, 12000, 128)).shape == (1, 750 * 8, 8)


def test_audio_vit__tokens_run_column_by_column() -> None:
    encoder = AudioViT(width=16, depth=1, num_heads=2)
    features = torch.zeros(1, 48, 128)
    changed = features.clone()
    changed[0, 16:32, 32:48] = 1.0  # column 1, row 2
    differs = (encoder.embed(features) != encoder.embed(changed)).any(dim=-1)[0]
    assert differs.nonzero().flatten().tolist() == [1 * 8 + 2]


def test_audio_vit__a_clip_alone_or_in_a_batch() -> None:
    encoder = AudioViT(width=16, depth=2, num_heads=2)
    features = torch.randn(3, 64, 128)
    torch.testing.assert_close(encoder(features)[1:2], encoder(features[1:2]))


def test_audio_vit__initialisation() -> None:
    torch.manual_seed(0)
    encoder = AudioViT(width=192, depth=2, num_heads=3)
    assert encoder.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert encoder.blocks[1].mlp.fc1.bias.abs().max() == 0
    bound = (6 / (192 + 256)) ** 0.5  # xavier on the flattened kernel
    assert 0.95 * bound < encoder.patch_embed.weight.abs().max() <= bound
    assert encoder.cls_token.std().item() == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 30, "num_heads": 3}, "width must be a multiple of 4 for 2-D sine-cosine positions, got 30"),
        ({"width": 64, "num_heads": 5}, "width must be a multiple of num_heads, got width=64 and num_heads=5"),
        ({"num_mel_bins": 100}, "num_mel_bins must be a multiple of patch_size"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
    ],
)
def test_audio_vit__sizes_that_do_not_divide_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioViT(**arguments)


def test_audio_vit__features_that_do_not_fit_are_refused() -> None:
    encoder = AudioViT(width=16, depth=1, num_heads=2, max_columns=8)
    with pytest.raises(ValueError, match="built for 128 mel bins, got features with 64"):
        encoder(torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="between 16 and 128 frames for this encoder, got 144"):
        encoder(torch.zeros(1, 144, 128))
    with pytest.raises(ValueError, match="got 8"):
        encoder(torch.zeros(1, 8, 128))


def test_checkpoint_blocks__same_results_and_gradients_with_fewer_activations() -> None:
    features_BLF = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    results = []
    for checkpoint_blocks in (False, True):
        torch.manual_seed(0)
        encoder = AudioViT(32, 3, 4, num_mel_bins=32, checkpoint_blocks=checkpoint_blocks)
        kept: list[int] = []

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            tokens, layers = encoder.forward_with_layers(features_BLF, {2})
        (encoder(features_BLF).square().sum() + tokens.sum() + layers[2].square().sum()).backward()
        results.append([tokens, layers[2], *(parameter.grad for parameter in encoder.parameters())])
        results[-1].append(torch.tensor(sum(kept)))
    *plain, plain_kept = results[0]
    *again, again_kept = results[1]
    assert all(torch.equal(first, second) for first, second in zip(plain, again, strict=True))
    assert again_kept < 0.3 * plain_kept
    assert "checkpoint_blocks" not in AudioViT(32, 1, 4, checkpoint_blocks=True).architecture()
