"""Weights and signals of the separation reference numbers, by formula (NumPy only).

Shape letters: B clips, M mixtures, N estimates, T samples.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslam.checkpoints.tensorflow_names import separator_state
from sslam.networks import TDCN
from sslam.networks.separator import Consistency

REFERENCE = Path(__file__).parent
VARIABLES: dict[str, list[int]] = json.loads((REFERENCE / "mixit_variables.json").read_text())  # of M = 2


def formula_weight(name: str, shape: list[int]) -> NDArray[np.float32]:
    """The value of a published variable: a normal draw seeded by its name, with mean and spread of its kind."""
    draw = np.asarray(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)))
    leaf = name.split("/")[-1]
    means = {"gamma": 1.0, "prelu": 0.1, "scale_layer": 1.0}
    spreads = {"depthwise_kernel": 0.5, "bias": 0.1, "gamma": 0.1, "beta": 0.1, "prelu": 0.05, "scale_layer": 0.05}
    mean = means.get(leaf, 0.0)
    if "/dense2/dense_scale" in name:
        mean = 0.9 ** int(name.split("conv_block_")[1].split("/")[0])
    spread = 1 / np.sqrt(shape[0]) if leaf == "kernel" else spreads[leaf]
    return np.asarray(mean + spread * draw, dtype=np.float32)


def formula_variables(num_sources: int = 2, consistency: Consistency = "pred_source") -> dict[str, Tensor]:
    """All variables of a published separator with these weights."""
    widths = {"dense/kernel": 256 * num_sources, "mix_weights/dense/kernel": num_sources}
    shapes = {name: [*shape[:-1], widths[name]] if name in widths else shape for name, shape in VARIABLES.items()}
    if consistency != "pred_source":
        del shapes["mix_weights/dense/kernel"]
    return {name: torch.from_numpy(formula_weight(name, shape)) for name, shape in shapes.items()}


def formula_separator(num_sources: int = 2, consistency: Consistency = "pred_source") -> TDCN:
    """TDCN++ of the published size with these weights."""
    separator = TDCN(num_sources, consistency=consistency)
    separator.load_state_dict(separator_state(formula_variables(num_sources, consistency)))
    return separator


def formula_mixtures(clips: int, num_samples: int) -> NDArray[np.float32]:
    """Noise, a beating tone and a chirp, (B, T)."""
    time = np.arange(num_samples) / 16_000
    waveforms = [
        0.05 * np.random.RandomState(1000 + clip).standard_normal(num_samples)
        + 0.2 * np.sin(2 * np.pi * 220 * (clip + 1) * time) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))
        + 0.1 * np.sin(2 * np.pi * (300 + 2000 * time) * time)
        for clip in range(clips)
    ]
    return np.stack(waveforms).astype(np.float32)


def noise(seed: int, shape: tuple[int, ...], scale: float = 0.1) -> NDArray[np.float32]:
    """Seeded normal noise."""
    return np.asarray(scale * np.random.RandomState(seed).standard_normal(shape), dtype=np.float32)


def loss_signals(num_estimates: int, case: str) -> tuple[Tensor, Tensor]:
    """Reference mixtures (3, 2, 400) and estimates (3, N, 400) of the cases "rand", "struct", "silent", "allzero"."""
    mixtures, estimates = noise(10 + num_estimates, (3, 2, 400)), noise(20 + num_estimates, (3, num_estimates, 400))
    if case == "struct":  # estimate j is a noisy share of mixture j % 2
        for clip, spread in enumerate([0.02, 0.2, 1e-4]):
            for j in range(num_estimates):
                error = spread * noise(1000 * clip + j + num_estimates, (400,))
                estimates[clip, j] = mixtures[clip, j % 2] / (num_estimates // 2) + error
    elif case == "silent":
        mixtures[0, 1] = mixtures[1] = estimates[2, 0] = 0
    elif case == "allzero":
        mixtures[:] = estimates[:] = 0
    return torch.from_numpy(mixtures), torch.from_numpy(estimates)


def training_mixtures() -> Tensor:
    """Two mixtures of mixtures as (2, 2, 4000), float32; the second mixture of each has one source."""
    sources = noise(501, (4, 2, 1, 4000)).astype(np.float64)
    time = np.arange(4000) / 16_000
    for clip in range(4):
        sources[clip, 0, 0] += 0.2 * np.sin(2 * np.pi * 200 * (clip + 1) * time)
    sources[1, 1] = sources[3, 1] = 0
    return torch.from_numpy(sources.sum(1).astype(np.float32)).reshape(2, 2, 4000)
