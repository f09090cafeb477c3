"""Small audio files, good and bad."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data_modules import LabelledDataModule
from data_modules.audio_file_dataset import AudioFileDataset
from tests.data_modules import official_layouts
from tests.data_modules.official_layouts import RATE


@pytest.fixture
def write_noise() -> Callable[..., None]:
    """Writes one file of noise, with its folders."""

    return official_layouts.write_noise


@pytest.fixture
def read_split() -> Callable[..., dict[str, tuple[Any, ...]]]:
    """Reads a whole split through its loader: file name -> (class names, degree of polyphony or None)."""

    def read(data: LabelledDataModule, split: str) -> dict[str, tuple[Any, ...]]:
        stage = {"training": "fit", "validation": "validate", "test": "test"}[split]
        data.setup(stage)
        data.training_augmentation = False
        dataset = {"training": data.train_set, "validation": data.val_set, "test": data.test_set}[split]
        loader = {"training": data.train_dataloader, "validation": data.val_dataloader, "test": data.test_dataloader}
        assert isinstance(dataset, AudioFileDataset)
        clips: dict[str, tuple[Any, ...]] = {}
        for batch in loader[split]():
            for row, index in enumerate(batch["index"].tolist()):
                names = [data.class_names[column] for column in batch["labels"][row].nonzero().flatten().tolist()]
                polyphony = int(batch["polyphony"][row]) if "polyphony" in batch else None
                clips[Path(dataset.path(index)).name] = (names, polyphony)
        assert len(clips) == len(dataset)
        return clips

    return read


@pytest.fixture
def write_clips() -> Callable[..., list[Path]]:
    """Writes `count` files of noise, each of another level, so that a clip tells from which file it is."""

    def write(folder: Path, count: int, seconds: float = 1.0, extension: str = "wav") -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        paths = [folder / f"clip{number:02}.{extension}" for number in range(count)]
        for number, path in enumerate(paths):
            soundfile.write(path, 0.01 * (number + 1) * rng.uniform(-1, 1, round(seconds * RATE)), RATE)
        return paths

    return write


@pytest.fixture
def write_bad_files() -> Callable[[Path], dict[str, str]]:
    """Writes one file of every bad kind; gives name and expected action."""

    def write(folder: Path) -> dict[str, str]:
        noise = np.random.default_rng(1).uniform(-0.5, 0.5, RATE).astype(np.float32)
        (folder / "unreadable.mp3").write_bytes(b"this is not audio" * 100)
        (folder / "empty.flac").touch()
        soundfile.write(folder / "silent.ogg", np.zeros(RATE), RATE)
        soundfile.write(folder / "nan.wav", np.where(np.arange(RATE) % 999 == 0, np.nan, noise), RATE, subtype="FLOAT")
        soundfile.write(folder / "one_sample.wav", np.ones(1), RATE)
        soundfile.write(folder / "wrong_rate.wav", noise, RATE)
        data = bytearray((folder / "wrong_rate.wav").read_bytes())
        data[24:28] = (1).to_bytes(4, "little")
        (folder / "wrong_rate.wav").write_bytes(data)
        for name in ("truncated.wav", "truncated.flac"):
            soundfile.write(folder / name, np.tile(noise, 3), RATE)
            (folder / name).write_bytes((folder / name).read_bytes()[: 2 * RATE])
        skipped = ("unreadable.mp3", "empty.flac", "silent.ogg", "nan.wav", "one_sample.wav", "wrong_rate.wav")
        return dict.fromkeys(skipped, "skipped") | {"truncated.wav": "repaired", "truncated.flac": "repaired"}

    return write
