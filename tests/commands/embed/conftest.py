"""A folder of recordings of many kinds, and `sslam embed` over it."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sslam.commands.embed import main
from tests.commands.conftest import exit_code
from tests.embedding.conftest import RATE, classifier, pre_trained

__all__ = ["classifier", "pre_trained"]


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
    return exit_code(main, args)


def load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def bad_files(output: Path) -> dict[str, tuple[str, str]]:
    with output.with_name(output.name + ".bad_files.csv").open(newline="") as stream:
        return {row["path"]: (row["reason"], row["action"]) for row in csv.DictReader(stream)}
