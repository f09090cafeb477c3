"""Small checkpoints as our runs save them, a folder of recordings of many kinds, and `sslam embed` over it."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sslam.commands.embed import main
from sslam.networks import AudioViT

RATE = 16_000
FRONTEND = {"num_frames": 512, "num_mel_bins": 64, "mean": -5.0, "std": 3.0, "sample_rate": RATE}
ENCODER = {"width": 32, "depth": 2, "num_heads": 4, "num_mel_bins": 64}


def encoder_state(prefix: str, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {prefix + name: tensor for name, tensor in AudioViT(**ENCODER).state_dict().items()}  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def pre_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of pre-training with its front end, without decoder."""
    path = tmp_path_factory.mktemp("pre_trained") / "last.ckpt"
    state = encoder_state("student.", 0) | encoder_state("teacher.encoder.", 1)
    torch.save({"state_dict": state, "architecture": {"encoder": ENCODER, "frontend": FRONTEND}}, path)
    return path


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned checkpoint of four classes, pooled by the mean of the patches, for one label per clip."""
    path = tmp_path_factory.mktemp("classifier") / "last.ckpt"
    state = encoder_state("encoder.", 2)
    state |= {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.zeros(32)}
    state |= {"head.weight": torch.randn(4, 32), "head.bias": torch.randn(4), "probes.1.head.bias": torch.randn(4)}
    head = {"num_classes": 4, "pooling": "mean", "activation": "softmax"}
    architecture = {"encoder": ENCODER, "frontend": FRONTEND, "head": head}
    names = ["cat", "dog", "siren, distant", "rain"]
    torch.save({"state_dict": state, "architecture": architecture, "class_names": names}, path)
    return path


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


GOOD_SECONDS = {"a.wav": 0.03, "b.wav": 0.5, "c.flac": 1.0, "d.ogg": 3.3, "long.flac": 130.0, "sub/e.wav": 1.0}
GOOD_SECONDS |= {"stereo.wav": 2.0, "sub/low.wav": 1.5, "sub/high.wav": 1.5, "truncated.wav": 1.0}
BAD = {
    "empty.wav": r"empty (0 bytes)",
    "headless.wav": "empty (a header without samples)",
    "nan.wav": "it holds NaN or infinite samples",
    "noise.mp3": "unreadable (",
    "short.wav": "too short: 160 samples",
    "silent.flac": "silent",
}


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Ten good files (one of them truncated), 0.03 to 130 s at 8 to 48 kHz, and six bad ones."""
    folder = tmp_path / "recordings"
    (folder / "sub" / ".hidden").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "c.flac", "d.ogg", "long.flac", "sub/e.wav"):
        soundfile.write(folder / name, noise(GOOD_SECONDS[name], seed=len(name)), RATE)
    soundfile.write(folder / "stereo.wav", noise(4.0).reshape(-1, 2), RATE)
    soundfile.write(folder / "sub" / "low.wav", noise(1.5, 8_000), 8_000)
    soundfile.write(folder / "sub" / "high.wav", noise(1.5, 48_000), 48_000)
    soundfile.write(folder / "truncated.wav", noise(2.0), RATE)
    data = (folder / "truncated.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(data[: 44 + 2 * RATE])
    (folder / "empty.wav").touch()
    soundfile.write(folder / "headless.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    (folder / "noise.mp3").write_bytes(b"no audio" * 500)
    soundfile.write(folder / "short.wav", noise(0.01), RATE)
    soundfile.write(folder / "silent.flac", np.zeros(RATE), RATE)
    (folder / "notes.txt").write_text("not audio")
    soundfile.write(folder / ".hidden.wav", noise(1.0), RATE)
    soundfile.write(folder / "sub" / ".hidden" / "x.wav", noise(1.0), RATE)
    return folder


def embed(recordings: Path, checkpoint: Path, output: Path, *more: object) -> int:
    args = [recordings, "--checkpoint", checkpoint, "--output", output, "--device", "cpu", "--num_workers", 2, *more]
    return main([str(arg) for arg in args])


def load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def bad_files(output: Path) -> dict[str, tuple[str, str]]:
    with output.with_name(output.name + ".bad_files.csv").open(newline="") as stream:
        return {row["path"]: (row["reason"], row["action"]) for row in csv.DictReader(stream)}
