"""A small contrastive method, and what it is trained with."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import soundfile
import torch
from torch import Tensor

from data_modules import SoundscapesDataModule
from sslam.frontends import LogMel
from sslam.losses import Coincidence, NTXent
from sslam.methods import SeparationContrastive
from sslam.networks import CNN14, TDCN
from sslam.separation import Processors
from sslam.transforms import MixtureAgainstChannel, MixtureAgainstMixture, RandomSource, SpecAugment

SAMPLES = 8000
CROP = 400 + 31 * 160  # 32 frames


def random_source(seed: int = 0) -> RandomSource:
    return RandomSource.seeded(torch.device("cpu"), seed)


def write_separator(path: Path, seed: int, num_sources: int = 2) -> TDCN:
    torch.manual_seed(seed)
    separator = TDCN(num_sources=num_sources, num_basis=12, width=8, hidden_width=10, num_blocks=2)
    state = {f"separator.{name}": value for name, value in separator.state_dict().items()}
    architecture = {"separator": separator.architecture()}
    torch.save({"architecture": architecture, "global_step": seed, "state_dict": state}, path)
    return separator.eval()


def make_method(separators: Path | None = None, cache: Path | None = None, **changes: Any) -> SeparationContrastive:
    files = ["step=00000000.ckpt", "end.ckpt"]
    processors = Processors(files, str(separators), None if cache is None else str(cache)) if separators else None
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "encoder": CNN14(width=16, channels=[4, 8, 8]),
        "frontend": LogMel(num_frames=32),
        "comparison": MixtureAgainstChannel() if separators else MixtureAgainstMixture(),
        "processors": processors,
        "similarity": NTXent(),
        "coincidence": Coincidence(),
        "spec_augment": SpecAugment(time_warp=4),
        "projection_hidden": 8,
        "projection_width": 8,
        "coincidence_hidden": 8,
    }
    return SeparationContrastive(**(arguments | changes))


def clips(number: int = 4, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(number, SAMPLES, generator=torch.Generator().manual_seed(seed))


def scenes(**changes: Any) -> SoundscapesDataModule:
    arguments: dict[str, Any] = {"batch_size": 8, "num_workers": 0, "clip_seconds": 1.0, "num_train_scenes": 32}
    arguments |= {"num_val_scenes": 17, "events_per_scene": (1, 2), "polyphony": (1, 2), "event_seconds": (0.3, 0.8)}
    return SoundscapesDataModule(**(arguments | changes))


def make_trainer(tmp_path: Path, **changes: Any) -> pl.Trainer:
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
        "max_epochs": -1,
    }
    return pl.Trainer(**(arguments | changes))


def write_clips(folder: Path, seconds: tuple[float, ...] = (1.0, 1.0, 0.7, 1.0, 0.7, 1.0), rate: int = 16000) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, length in enumerate(seconds):
        samples = 0.1 * rng.standard_normal(round(length * rate))
        soundfile.write(folder / f"{number}.wav", samples, rate, subtype="PCM_16")
