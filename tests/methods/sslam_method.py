"""A small SSLAM, and what it is trained with."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sslam.frontends import KaldiFbank
from sslam.methods import SSLAM, Objectives, Stage
from sslam.networks import AudioViT, ConvDecoder
from sslam.transforms import InverseBlockMasking, PartialMixing, RandomSource
from tests.quiet_trainer import QUIET

SAMPLES = 16000 * 128 // 100 + 240  # 128 frames: 8 columns of 8 patches
BOOTSTRAPPING = Objectives(unmixed=1, mixed=0, source_retention=0)


def make_stage(**changes: Any) -> Stage:
    return Stage(**({"steps": 4, "learning_rate": 1e-3, "warmup_steps": 1, "num_clones": 2} | changes))


def make_method(stages: list[Stage] | None = None, **changes: Any) -> SSLAM:
    torch.manual_seed(0)
    return SSLAM(
        encoder=AudioViT(width=32, depth=2, num_heads=2),
        decoder=ConvDecoder(width=32, decoder_width=32, depth=1),
        frontend=KaldiFbank(num_frames=128),
        masking=InverseBlockMasking(),
        mixing=PartialMixing(),
        stages=stages or [make_stage()],
        **changes,
    )


def clips(number: int, batch_size: int = 2, seed: int = 0) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    waveforms = torch.randn(number, SAMPLES, generator=generator) * 0.1
    samples = [{"waveform": waveforms[i], "num_samples": SAMPLES, "index": i} for i in range(number)]
    return DataLoader(samples, batch_size=batch_size)


def fit(module: SSLAM, loader: DataLoader, **changes: Any) -> pl.Trainer:
    trainer = pl.Trainer(**(QUIET | changes))
    trainer.fit(module, loader)
    return trainer


def losses_of(module: SSLAM, features: Tensor, stage: Stage) -> Any:
    return module.losses(features, stage, RandomSource.seeded(torch.device("cpu"), 5))
