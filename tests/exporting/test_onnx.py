"""ONNX: onnxruntime gives what the embedder gives, for any number of clips of any length."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sslam.embedding import AudioEmbedder
from sslam.exporting.onnx_graph import largest_difference
from sslam.frontends import Frontend, KaldiFbank, LogMel

Export = Callable[..., tuple[int, str]]


def sounds(num_clips: int, num_samples: int) -> torch.Tensor:
    """Noise, a tone over a large offset, and a click in silence."""
    time = torch.arange(num_samples) / 16_000
    click = torch.zeros(num_samples)
    click[num_samples // 2] = 1.0
    noise = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples))
    return torch.stack([noise, 0.5 + 0.4 * torch.sin(2765 * time), click])[:num_clips]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pre_trained", "fine_tuned", "contrastive"])
def test_onnx__any_batch_and_length(kind: str, checkpoints: dict[str, Path], export: Export, tmp_path: Path) -> None:
    assert export(checkpoints[kind], tmp_path / "model", "--onnx") == (0, "")
    path = tmp_path / "model/model.onnx"
    onnx.checker.check_model(path, full_check=True)
    assert {initializer.data_location for initializer in onnx.load(path).graph.initializer} == {
        onnx.TensorProto.DEFAULT
    }
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    embedder = AudioEmbedder.from_checkpoint(checkpoints[kind], device="cpu")
    for num_samples in (1_350, 16_000, 53_127):
        for num_clips in (1, 3):
            waveform_BT = sounds(num_clips, num_samples)
            tokens, embedding, *rest = session.run(None, {"waveform": waveform_BT.numpy()})
            expected = embedder(waveform_BT)
            np.testing.assert_allclose(embedding, expected.clip, rtol=0, atol=1e-4)
            columns = tokens[:, 1:].reshape(num_clips, expected.frames.shape[1], -1, tokens.shape[-1])
            np.testing.assert_allclose(columns.mean(axis=2), expected.frames, rtol=0, atol=1e-4)
            assert len(rest) == (expected.logits is not None)
            if expected.logits is not None:
                np.testing.assert_allclose(rest[0], embedder.probabilities(expected.logits), rtol=0, atol=1e-4)
    card = (tmp_path / "model/README.md").read_text()
    assert "The front end is part of the graph." in card
    assert ("`probabilities`: (clips, 4)" in card) == (kind == "fine_tuned")


@pytest.mark.parametrize("frontend", [KaldiFbank(mean=-5.0, std=3.0), LogMel(mean=-2.0, log_offset=0.01)])
@pytest.mark.parametrize("num_samples", [400, 4_000, 16_000])
def test_for_export__makes_the_same_features(frontend: Frontend, num_samples: int) -> None:
    waveform_BT = sounds(3, num_samples)
    num_frames = -(-frontend.frames_of(num_samples) // 16) * 16
    expected = type(frontend)(**frontend.architecture() | {"num_frames": num_frames})
    expected.expects_length = False
    torch.testing.assert_close(frontend.for_export(16)(waveform_BT), expected(waveform_BT), rtol=0, atol=2e-3)
    # Where there is sound; in the silence around a click float32 rounds the logarithm of next to nothing.
    torch.testing.assert_close(frontend.for_export(16)(waveform_BT[:1]), expected(waveform_BT[:1]), rtol=0, atol=1e-4)


def test_onnx__a_difference_is_found(checkpoints: dict[str, Path], export: Export, tmp_path: Path) -> None:
    """The check that stands behind the line in the card can fail."""
    assert export(checkpoints["pre_trained"], tmp_path / "model", "--onnx") == (0, "")
    embedder = AudioEmbedder.from_checkpoint(checkpoints["pre_trained"], device="cpu")
    assert largest_difference(tmp_path / "model/model.onnx", embedder) < 1e-4
    with torch.no_grad():
        embedder.encoder.blocks[0].norm1.bias += 0.1
    assert largest_difference(tmp_path / "model/model.onnx", embedder) > 1e-3


def test_onnx__missing_packages_are_named(
    checkpoints: dict[str, Path], export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, said = export(checkpoints["pre_trained"], tmp_path / "model", "--onnx")
    assert (code, said) == (
        2, "sslam export: --onnx needs the package onnxscript. Install the extra: pip install 'sslam[onnx]'.\n",
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
