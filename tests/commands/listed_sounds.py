"""What the tests of `sslam data index | verify | pack` share: a folder of tones, and what is made of it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sslam.__main__ import main
from tests.commands.conftest import exit_code
from tests.data_modules.official_layouts import RATE, write_tone_classes


def run(*args: object) -> int:
    return exit_code(main, ["data", *args])


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return write_tone_classes(tmp_path / "sounds")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def clips(data: Any, epochs: int = 2, **settings: Any) -> list[list[Any]]:
    """What training is given."""
    for name, value in {"batch_size": 3, "num_workers": 0, "clip_seconds": 0.3, **settings}.items():
        setattr(data, name, value)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        batches += [batch["waveform"].tolist() for batch in loader]
    return batches


def write_25_bad_files(folder: Path) -> dict[str, str]:
    """A file of every way in which downloads, disks and tools have spoilt audio; its name, and the kind it is of."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 3 * RATE).astype(np.float32)

    def audio(name: str, samples: Any = noise, **options: Any) -> Path:
        soundfile.write(folder / name, samples, RATE, **options)
        return folder / name

    def cut(name: str) -> None:
        path = audio(name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def overwritten(name: str, start: int, data: bytes) -> None:
        path = audio(name)
        content = bytearray(path.read_bytes())
        content[start : start + len(data)] = data
        path.write_bytes(content)

    kinds = {}
    for name in ("cut.wav", "cut.flac"):
        cut(name)
        kinds[name] = "truncated"
    for name, content in {
        "page.mp3": b"<!DOCTYPE html><html><title>404</title></html>" * 50,
        "text.wav": b"RIFF is what this is about\n" * 20,
        "random.flac": np.random.default_rng(2).bytes(5000),
        "zeros.ogg": bytes(20_000),
        "image.wav": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "archive.mp3": b"PK\x03\x04" + bytes(500),
        "head.flac": b"fLaC",
        "head.wav": b"RIFF",
    }.items():
        (folder / name).write_bytes(content)
        kinds[name] = "unreadable"
    for name in ("empty.wav", "empty.mp3", "empty.flac"):
        (folder / name).touch()
        kinds[name] = "empty"
    audio("header_alone.wav", np.zeros(0))
    kinds["header_alone.wav"] = "no samples"
    for name, samples in {"silent.wav": np.zeros(RATE), "almost_silent.wav": np.full(RATE, 1e-8)}.items():
        audio(name, samples, subtype="FLOAT")
        kinds[name] = "silent"
    for name, value in {"nan.wav": np.nan, "infinite.wav": np.inf}.items():
        audio(name, np.where(np.arange(len(noise)) == 999, value, noise), subtype="FLOAT")
        kinds[name] = "not finite"
    audio("loud.wav", noise * 1e6, subtype="FLOAT")
    kinds["loud.wav"] = "too loud"
    audio("short.wav", noise[:10])
    audio("one_sample.flac", noise[:1])
    kinds |= {"short.wav": "too short", "one_sample.flac": "too short"}
    overwritten("rate_1.wav", 24, (1).to_bytes(4, "little"))
    overwritten("rate_high.wav", 24, (2**31 - 1).to_bytes(4, "little"))
    kinds |= {"rate_1.wav": "impossible sample rate", "rate_high.wav": "impossible sample rate"}
    (folder / "nowhere.wav").symlink_to(folder / "gone.wav")
    kinds["nowhere.wav"] = "missing"
    os.mkfifo(folder / "pipe.wav")
    kinds["pipe.wav"] = "no regular file"
    return kinds
