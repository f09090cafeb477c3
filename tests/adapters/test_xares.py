"""X-ARES's rules for an encoder, without the package: what its checker asks for."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sslam.adapters import xares
from sslam.embedding import AudioEmbedder
from tests.embedding.conftest import pre_trained

__all__ = ["pre_trained"]


def test_xares__follows_the_rules_of_its_checker(pre_trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name in dir(xares) if name.endswith("Encoder")] == ["SslamEncoder"]
    monkeypatch.setenv("SSLAM_CHECKPOINT", str(pre_trained))
    encoder = xares.SslamEncoder()
    assert isinstance(encoder, nn.Module)
    assert (encoder.sampling_rate, encoder.output_dim, encoder.hop_size_in_ms) == (16_000, 32, 160)
    audio = torch.randn(2, 50_000)
    encoded = encoder(audio)
    assert encoded.shape == (2, 20, 32)
    assert abs(encoded.shape[1] - 50_000 / 16 / encoder.hop_size_in_ms) < 1
    assert encoder(audio[0]).shape == (1, 20, 32)
    torch.testing.assert_close(encoded, AudioEmbedder.from_checkpoint(pre_trained, device="cpu")(audio).frames)


def test_xares__needs_the_checkpoint_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSLAM_CHECKPOINT", raising=False)
    with pytest.raises(ValueError, match="Name the checkpoint in SSLAM_CHECKPOINT"):
        xares.SslamEncoder()
