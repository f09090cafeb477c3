"""Finding files: folder trees and manifests, right and wrong."""

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest

from data_modules import FolderDataModule, ManifestDataModule
from data_modules.folder import hold_out
from data_modules.manifest import read_manifest


@pytest.mark.parametrize(
    ("stage", "made"),
    [
        ("fit", {"train_set", "val_set", "test_set"}),
        ("validate", {"val_set", "test_set"}),
        ("test", {"val_set", "test_set"}),
        ("predict", {"predict_set"}),
    ],
)
def test_folder__makes_the_sets_of_its_stage_only(
    tmp_path: Path, write_clips: Callable[..., list[Path]], stage: str, made: set[str]
) -> None:
    clips = write_clips(tmp_path, 8)
    data = FolderDataModule(str(tmp_path), 0.5, num_workers=0)
    data.setup(stage)
    sets = {name: getattr(data, name) for name in ("train_set", "val_set", "test_set", "predict_set")}
    assert {name for name, value in sets.items() if value is not None} == made
    if stage == "predict":
        assert [sets["predict_set"].path(index) for index in range(8)] == [str(path) for path in clips]


def test_hold_out__is_a_stable_share() -> None:
    names = [f"clip{number}.wav" for number in range(2000)]
    training, validation = hold_out(names, 0.1)
    assert 150 < len(validation) < 250
    assert sorted(training + validation) == sorted(names)
    assert set(hold_out([*names, "new.wav"], 0.1)[1]) - {"new.wav"} == set(validation)
    assert hold_out(names, 0.0) == (names, [])


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (1.0, "val_fraction must be at least 0 and less than 1, got 1.0"),
        (-0.1, "val_fraction must be at least 0 and less than 1, got -0.1"),
        (1e-9, r"val_fraction=1e-09 of 1 files leaves none for validation.*--data.val_fraction"),
        (1 - 1e-9, "of 1 files leaves none for training"),
    ],
)
def test_hold_out__an_impossible_share_is_refused(fraction: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hold_out(["a.wav"], fraction)


def test_folder__a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Audio folder '.*nowhere' does not exist. Pass --data.root"):
        FolderDataModule(str(tmp_path / "nowhere")).setup("fit")


def test_folder__a_file_instead_of_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(ValueError, match=r"'.*a.wav' is not a folder. Pass --data.root"):
        FolderDataModule(str(tmp_path / "a.wav")).setup("fit")


def test_folder__a_folder_without_audio_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ValueError, match=r"No audio file below '.*': looked for .wav, .flac, .mp3, .ogg, .* Pass --data.root"
    ):
        FolderDataModule(str(tmp_path)).setup("fit")


def test_folder__validating_without_a_held_out_part_is_a_clear_error(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    write_clips(tmp_path, 2)
    with pytest.raises(
        ValueError, match=r"FolderDataModule has no validation data. Hold some out \(--data.val_fraction"
    ):
        FolderDataModule(str(tmp_path)).setup("validate")


@pytest.mark.parametrize("relative", [True, False])
def test_manifest__gives_the_files_below_its_root(
    tmp_path: Path, write_clips: Callable[..., list[Path]], relative: bool
) -> None:
    clips = write_clips(tmp_path / "audio" / "deep", 3)
    root = "audio" if relative else str(tmp_path / "audio")
    lines = [root, *(f"deep/{path.name}\t16000" for path in clips)]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n\n")
    data = ManifestDataModule(str(tmp_path / "train.tsv"), batch_size=3, num_workers=0, clip_seconds=0.5)
    assert isinstance(data, pl.LightningDataModule)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["waveform"].shape == (3, 8000)
    assert sorted(batch["index"].tolist()) == [0, 1, 2]
    assert data.val_dataloader() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: is empty. Write the root folder there"),
        ("nowhere\na.wav\t1\n", r"line 1: the root folder '.*nowhere' does not exist"),
        ("a.wav\t16000\n", "line 1: must be the root folder alone, got 'a.wav\t16000'"),
        (".\na.wav\t16000\nb.wav 16000\n", r"line 3: expected path<TAB>number, got 'b.wav 16000'"),
        (".\na.wav\tmany\n", r"line 2: expected path<TAB>number, got 'a.wav\tmany'"),
        (".\na.wav\t1\t2\n", "line 2: expected path<TAB>number"),
        (".\n\t16000\n", "line 2: expected path<TAB>number"),
        (".\n", "lists no file after its root"),
    ],
)
def test_read_manifest__wrong_lines_are_named_by_number(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_read_manifest__a_missing_manifest_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Manifest '.*no.tsv' does not exist. Pass --data.manifest"):
        read_manifest(tmp_path / "no.tsv")


def test_manifest__files_that_are_not_there_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(".\na.wav\t16000\nb.wav\t16000\n")
    with pytest.raises(ValueError, match=r"None of the 2 audio files that were tried.*no such file"):
        ManifestDataModule(str(tmp_path / "train.tsv")).setup("fit")
