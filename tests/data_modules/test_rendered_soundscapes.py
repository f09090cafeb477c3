"""Scenes from files: parts of them with their labels and stems, and what does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from data_modules import RenderedSoundscapesDataModule
from data_modules.events import clip_polyphony
from data_modules.rendered_soundscapes import RenderedSceneDataset
from sslam.audio import decode_audio
from tests.data_modules.official_layouts import RATE, write_tone_classes
from tests.data_modules.rendered_scenes import render


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return write_tone_classes(tmp_path / "sounds")


def test_rendered_soundscapes__what_does_not_fit_is_refused(sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "scenes"
    assert render(sounds, output, num_val_scenes=0) == 0

    def message(root: Path = output, **options: Any) -> str:
        with pytest.raises(ValueError, match="scenes") as caught:
            RenderedSoundscapesDataModule(str(root), **options).setup("fit")
        return str(caught.value)

    assert "were rendered without stems" in message(return_stems=True, clip_seconds=1.5)
    assert "Settings of the scenes not found" in message(sounds)
    (output / "train" / "00001.flac").unlink()
    data = RenderedSoundscapesDataModule(str(output), clip_seconds=1.5, batch_size=2, num_workers=0)
    with pytest.warns(UserWarning, match="4 of the 5 training clips are there"):
        data.setup("fit")
    assert data.title == "Scenes in scenes"
    assert data.val_dataloader() == []
    (output / "metadata.csv").unlink()
    assert "Metadata of the scenes not found" in message()


def test_rendered_soundscapes__a_bad_stem_costs_its_scene(sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "scenes"
    assert render(sounds, output, "--stems") == 0
    soundfile.write(output / "test" / "00001_events" / "background0.flac", np.zeros(100), RATE)
    data = RenderedSoundscapesDataModule(str(output), return_stems=True, clip_seconds=1.5, batch_size=2, num_workers=0)
    data.setup("test")
    with pytest.warns(UserWarning, match="a stem has one channel, 16000 Hz and the length of its mixture"):
        assert [batch["index"].tolist() for batch in data.test_dataloader()] == [[0]]


@pytest.mark.parametrize("clip_seconds", [0.4, 2.0])
def test_rendered_soundscapes__a_part_has_the_labels_and_stems_of_that_part(
    sounds: Path, tmp_path: Path, clip_seconds: float
) -> None:
    output = tmp_path / "scenes"
    assert render(sounds, output, "--stems") == 0
    data = RenderedSoundscapesDataModule(
        str(output), True, True, clip_seconds=clip_seconds, batch_size=1, num_workers=0
    )
    data.setup("fit")
    dataset = data.train_set
    assert isinstance(dataset, RenderedSceneDataset)
    silent = 0
    for index in range(5):
        for epoch in range(6):
            sample = dataset[index, epoch]
            assert sample["stems"].shape == (4, clip_seconds * RATE)
            torch.testing.assert_close(
                sample["stems"].sum(0) + sample["background"], sample["waveform"], rtol=0, atol=1e-6
            )
            events = sample["events"][sample["events"][:, 2] >= 0]
            assert set(sample["labels"].nonzero().flatten().tolist()) == set(events[:, 2].int().tolist())
            assert sample["polyphony"] == clip_polyphony(events.numpy())
            silent += len(events) < len(dataset.scenes[index])
            for (onset, offset, _), stem in zip(events.tolist(), sample["stems"], strict=False):
                sounding = stem.nonzero().flatten() / RATE
                if len(sounding):  # not only the zero that a fade begins with
                    assert onset - 1e-3 <= float(sounding.min())
                    assert float(sounding.max()) <= offset + 1e-3
            assert not sample["stems"][len(events) :].any()
    assert (silent > 0) == (clip_seconds < 1.5)


def test_rendered_soundscapes__without_random_crop_training_hears_the_beginnings(sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "scenes"
    assert render(sounds, output) == 0
    options: dict[str, Any] = {"clip_seconds": 0.4, "batch_size": 1, "num_workers": 0}
    first_epochs = {}
    for random_crop in (False, True):
        data = RenderedSoundscapesDataModule(str(output), random_crop=random_crop, **options)
        data.setup("fit")
        dataset = data.train_set
        assert isinstance(dataset, RenderedSceneDataset)
        first_epochs[random_crop] = [dataset[0, epoch]["waveform"] for epoch in range(3)]
    beginning = torch.from_numpy(decode_audio(output / "train" / "00000.flac", RATE, 0.0, 0.4).waveform)
    assert all(torch.equal(waveform, beginning) for waveform in first_epochs[False])
    assert not all(torch.equal(waveform, beginning) for waveform in first_epochs[True])
