"""A tiny separator as our runs save it, one whose sources are known, and a folder of recordings of many kinds."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslam.commands.separate import main
from sslam.networks.tdcn import TDCN, Separator

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
    args = [*inputs, "--checkpoint", checkpoint, "--output", output, "--device", "cpu", "--window-seconds", 2, *more]
    return main([str(arg) for arg in args])


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
