"""Clips from audio files: which part is read, what becomes of a bad file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules import ESC50DataModule, FolderDataModule, FUSSDataModule
from data_modules.clips import AudioFileDataset
from sslam.audio import FileProblem
from tests.data_modules import official_layouts

RATE = 16_000


def test_audio_file_dataset__pads_a_short_file_and_takes_the_beginning_of_a_long_one(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    path = str(write_clips(tmp_path, 1, seconds=1.0)[0])
    short = AudioFileDataset([path], 1.5, training=False)[0]
    assert short["waveform"].shape == (24_000,)
    assert short["num_samples"] == RATE
    assert not short["waveform"][RATE:].any()
    long = AudioFileDataset([path], 0.25, training=False)[0]
    torch.testing.assert_close(long["waveform"], short["waveform"][:4000])


def test_audio_file_dataset__training_parts_follow_seed_epoch_and_index(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    paths = [str(path) for path in write_clips(tmp_path, 2)]
    dataset = AudioFileDataset(paths, 0.25, training=True, seed=1)
    first = dataset[0, 0]["waveform"]
    assert torch.equal(first, dataset[0, 0]["waveform"])
    assert not torch.equal(first, dataset[0, 1]["waveform"])
    assert not torch.equal(first, AudioFileDataset(paths, 0.25, training=True, seed=2)[0, 0]["waveform"])
    whole = AudioFileDataset(paths, 1.0, training=False)[0]["waveform"]
    starts = [
        int((whole.unfold(0, 4000, 1) - dataset[0, epoch]["waveform"]).abs().sum(1).argmin()) for epoch in range(9)
    ]
    assert len(set(starts)) > 6
    assert max(starts) - min(starts) > 4000


def test_audio_file_dataset__without_random_crop_training_hears_the_beginnings(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    """Also of the file that replaces a bad one."""
    paths = [str(path) for path in write_clips(tmp_path, 2)]
    (tmp_path / "bad.wav").touch()
    dataset = AudioFileDataset([*paths, str(tmp_path / "bad.wav")], 0.25, training=True, random_crop=False)
    beginnings = [sample["waveform"] for sample in (AudioFileDataset(paths, 0.25, training=False)[i] for i in (0, 1))]
    for epoch in range(3):
        assert torch.equal(dataset[0, epoch]["waveform"], beginnings[0])
        replaced = dataset[2, epoch]
        assert torch.equal(replaced["waveform"], beginnings[replaced["index"]])


@pytest.mark.parametrize("random_crop", [False, True])
def test_random_crop__reaches_the_sets_of_recordings(random_crop: bool, tmp_path: Path) -> None:
    esc50 = official_layouts.write_esc50(tmp_path / "esc50", [(1, 0), (2, 10)], 0.1)
    fuss = official_layouts.write_fuss(tmp_path / "fuss")
    more: dict[str, Any] = {"random_crop": random_crop, "num_workers": 0, "batch_size": 1}
    for data in (
        ESC50DataModule(str(esc50), **more),
        FolderDataModule(str(esc50), **more),
        FUSSDataModule(str(fuss), **more),
    ):
        data.setup("fit")
        assert isinstance(data.train_set, AudioFileDataset)
        assert data.train_set.random_crop == random_crop


def test_audio_file_dataset__a_bad_file_is_replaced_in_training_and_dropped_in_evaluation(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    good = [str(path) for path in write_clips(tmp_path, 3)]
    (tmp_path / "bad.wav").touch()
    paths = [*good, str(tmp_path / "bad.wav")]
    problem = FileProblem(paths[3], "empty (0 bytes)", "skipped")
    sample = AudioFileDataset(paths, 0.25, training=True)[3, 0]
    assert sample["index"] < 3
    assert set(sample["skipped"]) == {problem}
    assert AudioFileDataset(paths, 0.25, training=False)[3] == {"skipped": [problem]}


@pytest.mark.parametrize("training", [True, False])
def test_require_readable__nothing_readable_is_a_clear_error(tmp_path: Path, training: bool) -> None:
    for number in range(3):
        (tmp_path / f"{number}.wav").touch()
    dataset = AudioFileDataset([str(path) for path in tmp_path.iterdir()], 1.0, training)
    with pytest.raises(ValueError, match=r"None of the 3 audio files that were tried can be used.*empty \(0 bytes\)"):
        dataset.require_readable()


def test_audio_file_dataset__a_clip_with_a_start_is_read_from_there_also_in_training(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    path = str(write_clips(tmp_path, 1, seconds=1.0)[0])
    whole = AudioFileDataset([path], 1.0, training=False)[0]["waveform"]
    starts = np.array([0.5, np.nan], np.float32)
    for training in (True, False):
        dataset = AudioFileDataset([path, path], 0.25, training, start_seconds=starts)
        torch.testing.assert_close(dataset[0, 3]["waveform"], whole[8000:12_000])
    torch.testing.assert_close(dataset[1]["waveform"], whole[:4000])
