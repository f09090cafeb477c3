"""A folder of recordings of many kinds, and `sslam separate` over it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslam.commands.separate import main
from tests.commands.conftest import exit_code
from tests.separation.conftest import RATE, Array, checkpoint, noise

__all__ = ["checkpoint"]

# Name: seconds, rate, channels.
GOOD = {
    "short.wav": (0.01, RATE, 1),
    "short_8k.wav": (0.01, 8_000, 1),
    "mono.wav": (1.0, RATE, 1),
    "twin.wav": (1.0, RATE, 1),
    "stereo.flac": (1.3, 44_100, 2),
    "sub/low.wav": (2.1, 8_000, 1),
    "sub/deep/middle.wav": (0.7, 22_050, 1),
    "sub/high.wav": (1.5, 48_000, 2),
    "long.wav": (7.3, RATE, 1),
    "long_stereo.wav": (6.1, 48_000, 2),
    "silent.wav": (0.5, RATE, 1),
    "quad.wav": (0.4, RATE, 4),
    "truncated.wav": (0.5, RATE, 1),
}
BAD = {
    "empty.wav": "empty (0 bytes)",
    "headless.wav": "empty (a header without samples)",
    "nan.wav": "it holds NaN or infinite samples",
    "noise.mp3": "unreadable (",
    "click.wav": "too short: 12 samples at the separator's 16000 Hz, and at least 21 are needed",
}


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Thirteen good files (one of them truncated, one silent) and five bad ones."""
    folder = tmp_path / "recordings"
    (folder / "sub" / "deep").mkdir(parents=True)
    for number, (name, (seconds, rate, channels)) in enumerate(GOOD.items()):
        soundfile.write(folder / name, noise(seconds, rate, channels, number).T, rate)
    soundfile.write(folder / "silent.wav", np.zeros(RATE // 2), RATE)
    soundfile.write(folder / "truncated.wav", noise(1.0).T, RATE)
    (folder / "truncated.wav").write_bytes((folder / "truncated.wav").read_bytes()[: 44 + RATE])
    (folder / "empty.wav").touch()
    soundfile.write(folder / "headless.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    (folder / "noise.mp3").write_bytes(b"no audio" * 500)
    soundfile.write(folder / "click.wav", noise(1)[0, :12], RATE)
    return folder


def separate(paths: Path | list[Path], checkpoint: Path, output: Path, *more: object) -> int:
    inputs = paths if isinstance(paths, list) else [paths]
    args = [*inputs, "--checkpoint", checkpoint, "--output", output, "--device", "cpu", "--window_seconds", 2, *more]
    return exit_code(main, args)


def read(path: Path) -> tuple[Array, int]:
    """All channels (C, T) and the rate."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.T, rate


def read_sources(output: Path, name: str, num_sources: int = 2) -> Array:
    """Shape (N, C, T)."""
    stem = Path(name).with_suffix("")
    return np.stack([read(output / f"{stem}_source{number}.wav")[0] for number in range(1, num_sources + 1)])


def bad_files(output: Path) -> dict[str, tuple[str, str]]:
    with (output / "bad_files.csv").open(newline="") as stream:
        return {row["path"]: (row["reason"], row["action"]) for row in csv.DictReader(stream)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
