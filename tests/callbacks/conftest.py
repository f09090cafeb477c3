"""A very small SSLAM and the data that it trains on."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sslam.frontends import KaldiFbank
from sslam.methods import SSLAM, Objectives, Stage
from sslam.networks import AudioViT, ConvDecoder
from sslam.transforms import InverseBlockMasking, PartialMixing

NUM_FRAMES = 128


@pytest.fixture
def tiny_sslam() -> Callable[[], SSLAM]:
    """Builds the same two-stage method at every call; 4 steps of masked latents, 4 of mixtures."""

    def build() -> SSLAM:
        torch.manual_seed(0)
        stages = [
            Stage(
                4, 1e-3, 1, num_clones=2, cls_target_layers=None, objectives=Objectives(1, 0, 0), name="masked latents"
            ),
            Stage(4, 1e-3, 1, num_clones=2),
        ]
        encoder = AudioViT(width=32, depth=2, num_heads=2)
        decoder = ConvDecoder(width=32, decoder_width=32, depth=1, groups=4)
        frontend = KaldiFbank(num_frames=NUM_FRAMES)
        return SSLAM(encoder, decoder, frontend, InverseBlockMasking(), PartialMixing(), stages)

    return build


@pytest.fixture
def clips() -> DataLoader[Any]:
    """Batches of two clips, tones of different pitch."""
    seconds = torch.arange(160 * NUM_FRAMES + 240) / 16000
    tones: list[dict[str, Tensor | int]] = [
        {"waveform": 0.3 * torch.sin(2 * math.pi * (200 + 150 * i) * seconds), "num_samples": len(seconds)}
        for i in range(8)
    ]
    return DataLoader(tones, batch_size=2)  # type: ignore[arg-type]


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., pl.Trainer]:
    """Trains on the CPU into ``tmp_path``."""

    def run(
        module: pl.LightningModule,
        data: DataLoader[Any],
        callbacks: list[pl.Callback],
        ckpt_path: Any = None,
        **options: Any,
    ) -> pl.Trainer:
        settings: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
            # The method ends the run at its last step.
            "max_epochs": -1,
        }
        trainer = pl.Trainer(callbacks=callbacks, **(settings | options))
        trainer.fit(module, data, ckpt_path=ckpt_path)
        return trainer

    return run
