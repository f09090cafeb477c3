"""Recordings of any length: windows, and what becomes of their columns, vectors and probabilities."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sslam.embedding import AudioEmbedder
from sslam.embedding.windows import mean_logits, windows_of
from sslam.frontends import Frontend, KaldiFbank, LogMel
from sslam.networks import CNN14, AudioViT, Encoder
from tests.embedding.test_embedder import RATE, random_clip


def model(window_seconds: float | None = 4.0, kind: str = "vit") -> AudioEmbedder:
    torch.manual_seed(0)
    encoder: Encoder = AudioViT(width=32, depth=1, num_heads=2, num_mel_bins=64)
    frontend: Frontend = KaldiFbank(num_mel_bins=64)
    if kind == "cnn14":
        encoder, frontend = CNN14(width=12, channels=(4, 6, 8), num_mel_bins=64), LogMel()
    return AudioEmbedder(encoder, frontend, device="cpu", window_seconds=window_seconds)


@pytest.mark.parametrize("total", [1, 9, 10, 11, 12, 13, 19, 20, 37, 38])
@pytest.mark.parametrize("unit", [1, 3])
def test_windows_of__cover_a_recording_whatever_its_blocks(total: int, unit: int) -> None:
    samples = np.arange(total, dtype=np.float32)
    expected = None
    for size in (1, 4, 50):
        blocks = [samples[start : start + size] for start in range(0, total, size)]
        windows = [(start, window.tolist()) for start, window in windows_of(blocks, 10, 6, unit, 12)]
        assert windows == (expected or windows)
        expected = windows
    assert expected is not None
    assert all(window == list(range(start, start + len(window))) for start, window in expected)
    assert expected[0][0] == 0
    assert expected[-1][1][-1] == total - 1
    if total <= 12:
        assert len(expected) == 1
        return
    assert all(len(window) == 10 for _, window in expected[:-1])
    assert 10 - unit < len(expected[-1][1]) <= 10
    assert [start % unit for start, _ in expected] == [0] * len(expected)
    assert [after - start for (start, _), (after, _) in pairwise(expected[:-1])] == [6] * (len(expected) - 2)


@pytest.mark.parametrize("kind", ["vit", "cnn14"])
@pytest.mark.parametrize("seconds", [4.1, 7.7, 17.0])
def test_embedder__a_long_recording_has_all_its_columns(seconds: float, kind: str) -> None:
    embedder = model(kind=kind)
    waveform = random_clip(seconds)
    embeddings = embedder(waveform, patches=True)
    num_columns = int(embedder.columns_in(torch.tensor(len(waveform))))
    assert embeddings.num_columns.tolist() == [num_columns]
    assert embeddings.patches is not None
    assert embeddings.patches.shape[:2] == embeddings.frames.shape[:2] == (1, num_columns)
    torch.testing.assert_close(embeddings.patches.mean(dim=2), embeddings.frames)
    torch.testing.assert_close(embeddings.times, embedder.column_times(num_columns), rtol=0, atol=1e-4)


def test_embedder__columns_are_from_the_window_whose_middle_is_nearer() -> None:
    """Two windows of 25 columns overlap by some; either side of the change is what its window alone gives."""
    embedder = model()
    waveform = random_clip(7.0)
    first, second = list(windows_of([waveform.numpy()], 25 * 2560, 22 * 2560, 2560))
    assert (first.start, second.start) == (0, 19 * 2560)
    alone = [embedder(window.waveform).frames[0] for window in (first, second)]
    frames = embedder(waveform).frames[0]
    change = (19 + 25) // 2
    torch.testing.assert_close(frames[:change], alone[0][:change])
    torch.testing.assert_close(frames[change:], alone[1][change - 19 :])
    clips = torch.stack([embedder(window.waveform).clip[0] for window in (first, second)])
    share = torch.tensor([len(alone[0]), len(alone[1])]) / (len(alone[0]) + len(alone[1]))
    torch.testing.assert_close(embedder(waveform).clip[0], share @ clips)


def test_embedder__long_and_short_ones_together_are_as_alone() -> None:
    embedder = model()
    lengths = [round(seconds * RATE) for seconds in (9.0, 1.0, 4.0)]
    batch = torch.zeros(3, max(lengths))
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = random_clip(length / RATE, length)
    together = embedder(batch, torch.tensor(lengths), patches=True)
    for row, length in enumerate(lengths):
        alone = embedder(batch[row, :length], patches=True)
        columns = int(alone.num_columns)
        assert int(together.num_columns[row]) == columns
        torch.testing.assert_close(together.clip[row], alone.clip[0])
        torch.testing.assert_close(together.frames[row, :columns], alone.frames[0])
        assert together.patches is not None
        assert alone.patches is not None
        torch.testing.assert_close(together.patches[row, :columns], alone.patches[0])
        assert (together.frames[row, columns:] == 0).all()


def test_embed_blocks__is_the_same_for_any_blocks() -> None:
    embedder = model()
    for seconds in (0.1, 4.0, 4.02, 4.1, 30.0):
        waveform = random_clip(seconds).numpy()
        whole = embedder(waveform)
        pieces = embedder.embed_blocks(np.array_split(waveform, 13))
        assert torch.equal(whole.frames, pieces.frames)
        assert torch.equal(whole.clip, pieces.clip)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_mean_logits__give_the_mean_probabilities(activation: str) -> None:
    logits = 3 * torch.randn(4, 2, 5, dtype=torch.float64)
    share = torch.tensor([0.3, 0.3, 0.3, 0.1], dtype=torch.float64)
    make = torch.sigmoid if activation == "sigmoid" else lambda values: values.softmax(dim=-1)
    mean = mean_logits(list(logits), share, activation)
    torch.testing.assert_close(make(mean), (make(logits) * share[:, None, None]).sum(dim=0))
    assert mean_logits([torch.full((1, 2), 300.0)] * 2, torch.tensor([0.5, 0.5]), activation).isfinite().all()


def test_embedder__window_seconds_within_its_range() -> None:
    for seconds in (1.0, 130.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="window_seconds must be between 1.6 and 122.88"):
            model(seconds)


# VmHWM and not ru_maxrss, which a process inherits from the one that started it.
MEASURE = """
import re, sys
import numpy as np
import soundfile
from pathlib import Path
from sslam.commands.embed import main

path, checkpoint, output = sys.argv[1:]
with soundfile.SoundFile(path, "w", 44_100, 2, subtype="PCM_16") as file:
    noise = 0.1 * np.random.default_rng(0).standard_normal((44_100 * 60, 2))
    for _ in range(20):
        file.write(noise)
args = [path, "--checkpoint", checkpoint, "--output", output, "--device", "cpu", "--level", "patch"]
code = main(args)
print(code, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_embed__twenty_minutes_in_bounded_memory(pre_trained: Path, tmp_path: Path) -> None:
    """Decoded as a whole they alone would be 423 MB of samples, and copies of them."""
    args = [str(tmp_path / "long.wav"), str(pre_trained), str(tmp_path / "out.npz")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *args], capture_output=True, text=True, check=True)
    code, kilobytes = done.stdout.split()[-2:]
    assert code == "0"
    assert int(kilobytes) < 2_000_000
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["embeddings"].shape == (7500 * 4, 32)
