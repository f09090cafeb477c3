"""A tiny separator as our runs save it, and one whose sources are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslam.networks import TDCN, Separator

RATE = 16_000
TINY = {"num_basis": 16, "width": 8, "hidden_width": 16, "num_blocks": 3, "dilation_cycle": 3}

Array = NDArray[np.float32]


def tiny_separator(num_sources: int = 2, seed: int = 0, **more: Any) -> TDCN:
    torch.manual_seed(seed)
    return TDCN(num_sources=num_sources, **(TINY | more)).eval()


class BandSeparator(Separator):
    """Splits the spectrum at 1 kHz; the louder band comes first, so that the order depends on the clip.

    Attributes:
        shapes: Of the batches it has seen.
    """

    num_sources = 2
    min_samples = 21

    def __init__(self, sample_rate: int = RATE) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, mixture_BT: Tensor) -> Tensor:
        self.shapes.append(tuple(mixture_BT.shape))
        spectrum = torch.fft.rfft(mixture_BT)
        low = torch.fft.rfftfreq(mixture_BT.shape[1], 1 / self.sample_rate) < 1000
        bands_BNT = torch.fft.irfft(torch.stack([spectrum * low, spectrum * ~low], dim=1), mixture_BT.shape[1])
        order = bands_BNT.square().sum(dim=-1).argsort(dim=1, descending=True)
        return bands_BNT.gather(1, order.unsqueeze(-1).expand_as(bands_BNT))


def save_separator(path: Path, separator: TDCN) -> Path:
    """A checkpoint as a run of MixIT writes it."""
    state = {f"separator.{name}": tensor for name, tensor in separator.state_dict().items()}
    torch.save({"architecture": {"separator": separator.architecture()}, "global_step": 0, "state_dict": state}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_separator(tmp_path_factory.mktemp("separator") / "last.ckpt", tiny_separator())


def noise(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> Array:
    """Shape (C, T)."""
    generator = np.random.default_rng(seed)
    return 0.2 * generator.standard_normal((channels, round(seconds * rate))).astype(np.float32)


def tone(hertz: float, seconds: float, rate: int = RATE) -> Array:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)
