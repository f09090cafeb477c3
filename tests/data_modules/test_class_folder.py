"""Recordings of one's own: class folders and CSV files, whose folds keep together what belongs together."""

import csv
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile

from data_modules import ClassFolderDataModule
from data_modules.class_folder import fitting_seconds
from data_modules.recordings import find_recordings, read_recordings
from tests.data_modules.official_layouts import RATE, write_noise
from tests.data_modules.own_recordings import files, folds_of, own_module, quietly
from tests.mp3 import damage, write_mp3

SIZES = {
    "bell": 1,
    "bird": 3,
    "cat": 5,
    "dog": 6,
    "door": 8,
    "fan": 10,
    "rain": 12,
    "siren": 15,
    "train": 20,
    "wind": 30,
}


@pytest.fixture
def own_folder(tmp_path: Path, write_bad_files: Callable[[Path], dict[str, str]]) -> tuple[Path, dict[str, str]]:
    """Ten classes of 1 to 30 sounds, with copies, broken files and files at several depths; and what is bad of them."""
    root = tmp_path / "my sounds"
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        for number in range(size):
            path = root / name / ("" if number % 3 else f"take {number % 2}/deep") / f"{name}{number:02}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, rng.uniform(-0.5, 0.5, RATE // 2), RATE)
    for number in range(1, 5):  # copies: the same file, and the same samples
        shutil.copy(root / "wind" / "wind01.wav", root / "wind" / f"copy{number}.wav")
    samples, _ = soundfile.read(root / "train" / "train02.wav")
    soundfile.write(root / "train" / "again.flac", samples, RATE)
    shutil.copy(root / "dog" / "dog01.wav", root / "cat" / "howling.wav")  # and one with another label
    bad = {f"wind/{name}": action for name, action in write_bad_files(root / "wind").items()}
    shutil.move(root / "wind" / "nan.wav", root / "bird" / "nan.wav")
    bad["bird/nan.wav"] = bad.pop("wind/nan.wav")
    write_mp3(root / "fan" / "inside.wav", rng.uniform(-0.5, 0.5, RATE), RATE)
    write_mp3(root / "fan" / "damaged.wav", rng.uniform(-0.5, 0.5, RATE), RATE)
    damage(root / "fan" / "damaged.wav")
    bad["fan/damaged.wav"] = "repaired"
    write_noise(root / "forgotten.wav")
    bad["forgotten.wav"] = "skipped"
    (root / "fan" / "notes.txt").write_text("not audio")
    return root, bad


def test_class_folder__copies_never_cross_folds_and_every_bad_file_is_named(
    own_folder: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    root, bad = own_folder
    data = own_module(root)
    with (
        pytest.warns(UserWarning, match=r"labels than their originals \(1\): 'dog/dog01.wav' \(dog\) of") as said,
    ):
        data.setup("fit")
    by_text = [str(warning.message) for warning in said]
    (missing,) = [text for text in by_text if "missing from some folds" in text]
    assert missing == (
        "my sounds: classes that are missing from some folds (2 of 10): 'bell' (1 usable, in 1 of 5 folds), 'bird' (3 "
        "usable, in 3 of 5 folds). A class that is missing from a fold is not scored there, and one that has a single "
        "fold is never learnt when it is scored. Add recordings, or lower --data.num_folds."
    )
    assert list(data.class_names) == sorted(SIZES)
    assert data.single_label is True
    assert (data.title, data.title_and_fold) == ("my sounds", "my sounds fold 1")
    folds = folds_of(data)
    assert set(folds.values()) == {1, 2, 3, 4, 5}
    assert len({folds["wind/wind01.wav"], *(folds[f"wind/copy{number}.wav"] for number in range(1, 5))}) == 1
    assert folds["train/train02.wav"] == folds["train/again.flac"]
    assert folds["cat/howling.wav"] == folds["dog/dog01.wav"]
    named = {os.path.relpath(path, root): problem.action for path, problem in data.bad_files.problems.items()}
    assert named == bad
    assert any(text.startswith(f"Bad audio files so far: {len(bad)} (") for text in by_text)
    assert "libmpg123" not in capfd.readouterr().err
    # No recording is on both sides, and none is on neither.
    training, held_out = files(data, "training"), files(data, "validation")
    assert sorted([*training, *held_out]) == sorted(folds)
    assert sorted(name for name, fold in folds.items() if fold == 1) == sorted(held_out)
    # Classes are spread: shares differ by one recording, or by the copies that stay together.
    for name in SIZES:
        usable = [file for file in folds if file.startswith(f"{name}/") and bad.get(file) != "skipped"]
        shares = np.bincount([folds[file] for file in usable], minlength=6)[1:]
        assert shares.max() - shares.min() <= (4 if name == "wind" else 1), name
    assert data.listings["training"].listed == len(training)
    assert data.listings["training"].unreadable + data.listings["validation"].unreadable == 2
    quietly(data, "test")
    assert files(data, "test") == held_out


@pytest.mark.parametrize("num_workers", [0, 2])
def test_class_folder__gives_every_usable_clip_once_with_its_label(
    own_folder: tuple[Path, dict[str, str]], num_workers: int
) -> None:
    root, bad = own_folder
    seen: dict[str, str] = {}
    for fold in range(1, 6):
        data = quietly(own_module(root, fold=fold, num_workers=num_workers), "test")
        dataset: Any = data.test_set
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batches = list(data.test_dataloader())
        for batch in batches:
            assert (batch["labels"].sum(dim=1) == 1).all()
            for index, column in zip(batch["index"].tolist(), batch["labels"].argmax(dim=1).tolist(), strict=True):
                name = os.path.relpath(dataset.path(index), root)
                assert name not in seen
                seen[name] = data.class_names[column]
    usable = {name for name in folds_of(data) if bad.get(name) != "skipped"}
    assert set(seen) == usable
    assert all(name.startswith(f"{label}/") for name, label in seen.items())


def test_class_folder__folds_are_the_same_in_every_run_and_wherever_the_folder_lies(
    own_folder: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, _ = own_folder
    first = folds_of(quietly(own_module(root)))
    assert folds_of(quietly(own_module(root, fold=3, seed=5, num_workers=2, clip_seconds=0.2), "test")) == first
    moved = shutil.move(root, tmp_path / "elsewhere")
    assert folds_of(quietly(own_module(moved))) == first
    assert folds_of(quietly(own_module(moved, fold_seed=1))) != first
    three = folds_of(quietly(own_module(moved, num_folds=3)))
    assert set(three.values()) == {1, 2, 3}


def test_class_folder__copies_may_be_left_where_they_fall(own_folder: tuple[Path, dict[str, str]]) -> None:
    root, _ = own_folder
    data = quietly(own_module(root, keep_copies_together=False))
    folds = folds_of(data)
    assert len({folds["wind/wind01.wav"], *(folds[f"wind/copy{number}.wav"] for number in range(1, 5))}) > 1
    assert [os.path.relpath(path, root) for path in data.bad_files.problems] == ["forgotten.wav"]


def test_class_folder__nothing_may_be_held_out(own_folder: tuple[Path, dict[str, str]]) -> None:
    root, _ = own_folder
    data = own_module(root, fold=None)
    data.setup("fit")
    data.setup("test")
    assert data.title_and_fold == "my sounds"
    assert files(data, "training") == files(data, "test")
    assert len(files(data, "training")) == sum(SIZES.values()) + 4 + 2 + 8 + 2


class _Model(pl.LightningModule):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> None:
        pass


def test_class_folder__a_run_keeps_its_folds_which_can_be_given_back(
    own_folder: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, bad = own_folder
    run = tmp_path / "run"
    options = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, limit_val_batches=0, default_root_dir=run, **options)
    data = own_module(root, fold=2, training_augmentation=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(_Model(), data)
        trainer.test(_Model(), data, verbose=False)
    with (run / "bad_files.csv").open(newline="") as file:
        listed = [(os.path.relpath(row["path"], root), row["action"]) for row in csv.DictReader(file)]
    assert sorted(listed) == sorted(bad.items())
    again = ClassFolderDataModule(str(run / "folds.csv"), fold=2, audio=str(root), name="my sounds", num_workers=0)
    quietly(again)
    assert folds_of(again) == folds_of(data)
    assert again.title_and_fold == data.title_and_fold == "my sounds fold 2"
    assert again.class_names == data.class_names
    assert np.array_equal(again._contents.groups_N, data._contents.groups_N)  # type: ignore[union-attr]


# ---- what cannot be used -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_folds": 1}, "num_folds must be at least 2, got 1"),
        ({"fold_seed": -1}, "fold_seed must be at least 0, got -1"),
        (
            {"audio": "x"},
            "audio is the folder of the files that a CSV file lists, and root is '.*'. Leave --data.audio",
        ),
        ({"clip_seconds": 0.01}, "clip_seconds must lie between"),
        (
            {"fold": 6},
            r"fold must be one of 1, 2, 3, 4, 5 \(made, as num_folds is 5\), or null to hold nothing out, got 6",
        ),
        ({"fold": 3, "num_folds": 2}, r"fold must be one of 1, 2 \(made, as num_folds is 2\)"),
    ],
)
def test_class_folder__wrong_arguments_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    for number in range(10):
        write_noise(tmp_path / "xy"[number % 2] / f"{number}.wav", level=0.01 * (number + 1))
    with pytest.raises(ValueError, match=message):
        own_module(tmp_path, **options).setup("fit")


def test_class_folder__folders_without_classes_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Audio folder '.*none' does not exist. Pass --data.root"):
        own_module(tmp_path / "none").setup("fit")
    with pytest.raises(
        ValueError, match=r"Labels not found: there is no file '.*none.csv'. Pass --data.root with a CSV"
    ):
        own_module(tmp_path / "none.csv").setup("fit")
    with pytest.raises(
        ValueError, match=r"No audio file in the class folders of '.*': looked for .wav, .* '.*/CLASS/'"
    ):
        own_module(tmp_path).setup("fit")
    write_noise(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"No audio file in the class folders of '.*' \(1 lie beside them\)"):
        own_module(tmp_path).setup("fit")
    write_noise(tmp_path / "x" / "a.wav")
    with pytest.raises(ValueError, match="has one class, 'x'"):
        own_module(tmp_path).setup("fit")
    write_noise(tmp_path / "y;z" / "a.wav")
    with pytest.raises(ValueError, match="Class folder '.*y;z': a class name must not hold ';'"):
        own_module(tmp_path).setup("fit")


def test_class_folder__a_folder_of_nothing_but_broken_files_is_an_error(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_text("no audio")
    with pytest.raises(ValueError, match=r"None of the 2 recordings of '.*' can be used, such as '.*' \(unreadable"):
        own_module(tmp_path).setup("fit")


# ---- the length of clips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0] * 19 + [9.0], 1.0),  # one in twenty may be cut
        ([1.0] * 18 + [9.0] * 2, 9.0),
        ([0.2, 0.43], 0.5),
        ([2.0, 30.0], 10.0),
        ([3.0001], 3.1),
    ],
)
def test_fitting_seconds__nearly_all_recordings_are_whole(
    tmp_path: Path, seconds: list[float], expected: float
) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(len(seconds))]
    for path, length in zip(paths, seconds, strict=True):
        soundfile.write(path, np.zeros(round(length * RATE)), RATE)
    (tmp_path / "bad.wav").write_text("no audio")
    assert fitting_seconds([*map(str, paths), str(tmp_path / "bad.wav")]) == expected


def test_class_folder__the_length_of_clips_follows_from_the_recordings_unless_it_is_given(tmp_path: Path) -> None:
    for number in range(10):
        write_noise(tmp_path / "xy"[number % 2] / f"{number}.wav", seconds=0.2, level=0.01 * (number + 1))
    data = own_module(tmp_path)
    data.setup("fit")
    assert data.clip_seconds == 0.2
    assert next(iter(data.train_dataloader()))["waveform"].shape == (4, 3200)
    data = own_module(tmp_path, clip_seconds=0.5)
    data.setup("fit")
    assert data.clip_seconds == 0.5


def test_class_folder__says_how_many_copies_there_are(
    own_folder: tuple[Path, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    root, _ = own_folder
    with caplog.at_level(logging.INFO):
        quietly(own_module(root))
    assert "my sounds: recordings that are copies of others (6): 'dog/dog01.wav' of 'cat/howling.wav', " in caplog.text


def test_find_recordings__and_read_recordings__give_what_is_there(tmp_path: Path) -> None:
    write_noise(tmp_path / "x" / "deep" / "er" / "a.wav")
    write_noise(tmp_path / "b.wav")
    (recording,), (problem,) = find_recordings(tmp_path)
    assert (recording.name, recording.labels, recording.fold, recording.group) == ("x/deep/er/a.wav", ["x"], None, None)
    assert problem.reason == "it lies in no class folder, so it has no label"
    table = tmp_path / "own.csv"
    table.write_text('group,label,file,more\n"a, b",x; y ;x,b.wav,1\n,y,x/c.wav,2\n', encoding="utf-8")
    first, second = read_recordings(table, tmp_path)
    assert first == ("b.wav", ["x", "y"], None, "a, b", 2)
    assert second == ("x/c.wav", ["y"], None, None, 3)
