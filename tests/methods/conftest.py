"""Labelled tones that a classifier can tell apart, and small classifiers."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from data_modules import AudioDataModule
from sslam.networks import AudioViT
from tests.methods.contrastive_method import write_separator

SAMPLES = 16000 * 128 // 100 + 240  # 128 frames


class Tones(AudioDataModule):
    """Clips of four classes: tones of four pitches in noise; an odd number, so that shares are uneven."""

    class_names = ("low", "middle", "high", "highest")
    title = "Tones"
    single_label = True

    def __init__(self, num_train: int = 40, num_test: int = 21, training_augmentation: bool = False) -> None:
        super().__init__(batch_size=8, num_workers=0, clip_seconds=1.28, training_augmentation=training_augmentation)
        self.num_train, self.num_test = num_train, num_test

    def make_sets(self, stage: str) -> None:
        self.train_set = TonesDataset(self.num_train, 0)
        self.val_set = self.test_set = TonesDataset(self.num_test, 1)


class TonesDataset(torch.utils.data.Dataset[Any]):
    def __init__(self, number: int, split: int) -> None:
        self.number, self.split = number, split

    def __len__(self) -> int:
        return self.number

    def evaluation_view(self) -> "TonesDataset":
        return self

    def __getitem__(self, request: Any) -> dict[str, Any]:
        index = request[0] if isinstance(request, tuple) else request
        random = torch.Generator().manual_seed(1000 * self.split + index)
        label = index % 4
        time = torch.arange(SAMPLES) / 16000
        phase = 6.28 * torch.rand((), generator=random)
        tone = 0.1 * torch.sin(2 * torch.pi * 300 * 2**label * time + phase)
        return {
            "waveform": tone + 0.05 * torch.randn(SAMPLES, generator=random),
            "num_samples": SAMPLES,
            "index": index,
            "labels": torch.eye(4)[label],
            "polyphony": 1 + index % 2,
            "skipped": [],
        }


@pytest.fixture
def tones() -> type[Tones]:
    return Tones


@pytest.fixture
def tiny_encoder() -> AudioViT:
    torch.manual_seed(0)
    return AudioViT(width=32, depth=2, num_heads=2)


@pytest.fixture
def quiet_trainer() -> type[pl.Trainer]:
    class QuietTrainer(pl.Trainer):
        def __init__(self, **changes: Any) -> None:
            arguments = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
            arguments |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
            super().__init__(**(arguments | changes))

    return QuietTrainer


@pytest.fixture
def separators(tmp_path: Path) -> Path:
    """A folder with three separators."""
    folder = tmp_path / "kept"
    folder.mkdir()
    for seed, name in enumerate(("step=00000000", "step=00000500", "end")):
        write_separator(folder / f"{name}.ckpt", seed)
    return folder
