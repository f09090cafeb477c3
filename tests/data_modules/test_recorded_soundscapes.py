"""Scenes of a folder of recordings: no recording on two sides, the same everywhere, true labels."""

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from data_modules import RecordedSoundscapesDataModule, Silence
from data_modules.soundscapes import SoundscapesDataset
from tests.data_modules.official_layouts import CLASS_FREQUENCIES, RATE, write_tone, write_tone_classes

REAL_AUDIO = Path(os.environ.get("SSLAM_REAL_AUDIO", Path(__file__).parents[2] / "../shared/data")) / "esc50-fold4"
SMALL: dict[str, Any] = {
    "num_train_scenes": 12, "num_val_scenes": 6, "num_test_scenes": 6, "events_per_scene": (1, 4), "polyphony": (1, 2),
    "event_seconds": (0.1, 0.5), "clip_seconds": 2.0, "batch_size": 4, "num_workers": 0,
}  # fmt: skip
SPLITS = ("training", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tone_classes(tmp_path / "sounds")


def set_up(root: Path, **options: Any) -> RecordedSoundscapesDataModule:
    data = RecordedSoundscapesDataModule(str(root), **(SMALL | options))
    data.setup("fit")
    data.setup("test")
    return data


def datasets(data: RecordedSoundscapesDataModule) -> dict[str, SoundscapesDataset]:
    sets = dict(zip(SPLITS, (data.train_set, data.val_set, data.test_set), strict=True))
    return {split: dataset for split, dataset in sets.items() if isinstance(dataset, SoundscapesDataset)}


def heard(data: RecordedSoundscapesDataModule, num_scenes: int = 60) -> dict[str, set[str]]:
    """The recordings that are heard in the scenes of each split, also in later epochs; below the folder of the data."""
    files = {}
    for split, dataset in datasets(data).items():
        sounds = [sound for number in range(num_scenes) for sound in dataset.scene(number).sounds]
        files[split] = {str(Path(sound.source_file).relative_to(Path(data.root).with_suffix(""))) for sound in sounds}
    return files


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_recorded_soundscapes__no_recording_nor_copy_is_heard_on_two_sides(folder: Path) -> None:
    # Copies under another name, in another format, and in another class.
    samples, _ = soundfile.read(folder / "low" / "0.flac")
    soundfile.write(folder / "low" / "copy.wav", samples, RATE)
    shutil.copy(folder / "low" / "1.flac", folder / "low" / "again.flac")
    copies = [{"low/0.flac", "low/copy.wav"}, {"low/1.flac", "low/again.flac"}]
    tested = set()
    for fold in range(1, 4):
        data = set_up(folder, fold=fold, num_folds=3)
        files = heard(data)
        assert len(files["training"] | files["validation"] | files["test"]) == sum(map(len, files.values())) == 20
        for pair in copies:
            assert any(pair <= sounds for sounds in files.values())
        tested |= files["test"]
    assert len(tested) == 20


def test_recorded_soundscapes__groups_stay_on_one_side(folder: Path) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.flac"))
    groups = {name: f"{name.split('/')[0]} {int(Path(name).stem) // 2}" for name in names}
    table = write_csv(
        folder.with_suffix(".csv"),
        [("file", "label", "group"), *((name, name.split("/")[0], groups[name]) for name in names)],
    )
    data = set_up(table, audio=str(folder), num_folds=3)
    sides: dict[str, set[str]] = {}
    for split, files in heard(data).items():
        for file in files:
            sides.setdefault(groups[file], set()).add(split)
    assert len(sides) == 9
    assert all(len(splits) == 1 for splits in sides.values())


def test_recorded_soundscapes__a_column_gives_the_folds(folder: Path) -> None:
    rows = [(f"{name}/{number}.flac", name, 10 * (number % 3)) for name in CLASS_FREQUENCIES for number in range(6)]
    table = write_csv(folder.with_suffix(".csv"), [("file", "label", "fold"), *rows])
    files = heard(set_up(table, audio=str(folder), fold=20))
    assert {file: split for split, names in files.items() for file in names} == {
        file: {20: "test", 0: "validation", 10: "training"}[fold] for file, _, fold in rows
    }


def test_recorded_soundscapes__without_validation_scenes_its_recordings_are_trained_on(folder: Path) -> None:
    with_validation = heard(set_up(folder, num_folds=3))
    without = heard(set_up(folder, num_folds=3, num_val_scenes=0))
    assert set(without) == {"training", "test"}
    assert without["training"] == with_validation["training"] | with_validation["validation"]


def test_recorded_soundscapes__events_are_of_the_class_that_labels_say(folder: Path) -> None:
    data = set_up(folder, return_stems=True, return_events=True)
    assert data.class_names == sorted(CLASS_FREQUENCIES)
    batch = next(iter(data.train_dataloader()))
    assert batch["stems"].shape == (4, 4, 2 * RATE)
    assert batch["labels"].shape == (4, 3)
    torch.testing.assert_close(batch["stems"].sum(1) + batch["background"], batch["waveform"], rtol=0, atol=1e-6)
    for labels, events, stems in zip(batch["labels"], batch["events"], batch["stems"], strict=True):
        real = events[events[:, 2] >= 0]
        assert set(labels.nonzero().flatten().tolist()) == set(real[:, 2].int().tolist())
        for (_, _, label), stem in zip(real.tolist(), stems, strict=False):
            peak = torch.fft.rfft(stem).abs().argmax() / 2  # of 2 s, in Hz
            assert float(peak) == pytest.approx(CLASS_FREQUENCIES[data.class_names[int(label)]], abs=20)


def batches(folder: Path, num_workers: int) -> list[dict[str, Any]]:
    data = set_up(folder, num_workers=num_workers, return_stems=True, return_events=True)
    return [*data.train_dataloader(), *data.test_dataloader()]


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_recorded_soundscapes__workers_give_what_the_main_process_gives(folder: Path) -> None:
    alone, with_workers = batches(folder, 0), batches(folder, 2)
    assert len(alone) == len(with_workers) == 3 + 2
    for first, second in zip(alone, with_workers, strict=True):
        assert_equal(first, second)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_recorded_soundscapes__a_resumed_epoch_goes_on_with_the_same_scenes(folder: Path, num_workers: int) -> None:
    def loader() -> Any:
        loader = set_up(folder, num_workers=num_workers).train_dataloader()
        loader.sampler.set_epoch(3)
        return loader

    straight = loader()
    first, *rest = straight
    interrupted = loader()
    iterator = iter(interrupted)
    assert_equal(next(iterator), first)
    state = interrupted.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    for expected, batch in zip(rest, resumed, strict=True):
        assert_equal(expected, batch)


def test_recorded_soundscapes__scenes_follow_seed_and_index_and_not_the_folders_place(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "elsewhere" / "sounds")
    first = datasets(set_up(folder))["test"]
    assert torch.equal(
        first[3]["waveform"], datasets(set_up(folder.parent / "elsewhere" / "sounds"))["test"][3]["waveform"]
    )
    for other in (first[4], datasets(set_up(folder, seed=1))["test"][3], datasets(set_up(folder))["training"][3]):
        assert not torch.equal(first[3]["waveform"], other["waveform"])
    training = datasets(set_up(folder))["training"]
    assert not torch.equal(training[2, 0]["waveform"], training[2, 1]["waveform"])


def test_recorded_soundscapes__bad_files_are_named_and_left_out(
    folder: Path, write_bad_files: Callable[[Path], dict[str, str]]
) -> None:
    expected = write_bad_files(folder / "low")
    data = RecordedSoundscapesDataModule(str(folder), **SMALL)
    with pytest.warns(UserWarning, match="Bad audio files so far"):
        data.setup("fit")
    problems = {Path(path).name: problem.action for path, problem in data.bad_files.problems.items()}
    assert problems == expected
    skipped = {name for name, action in expected.items() if action == "skipped"}
    assert not skipped & {Path(file).name for files in heard(data).values() for file in files}


def test_recorded_soundscapes__a_recording_that_vanishes_costs_its_scenes_only(folder: Path) -> None:
    data = set_up(folder, num_test_scenes=20)
    dataset = datasets(data)["test"]
    gone = dataset.scene(0).sounds[0].source_file
    lost = [index for index in range(20) if gone in {sound.source_file for sound in dataset.scene(index).sounds}]
    assert 0 < len(lost) < 20
    Path(gone).unlink()
    with pytest.warns(UserWarning, match=f"'{gone}' \\(skipped: no such file\\)"):
        indices = [index for batch in data.test_dataloader() for index in batch["index"].tolist()]
    assert indices == [index for index in range(20) if index not in lost]


def test_recorded_soundscapes__listings_say_which_classes_are_heard(folder: Path) -> None:
    for number in range(1, 6):
        (folder / "low" / f"{number}.flac").unlink()
    with pytest.warns(UserWarning, match="classes .*missing from some folds.*: 'low' "):
        data = set_up(folder, num_train_scenes=100, num_val_scenes=100, num_test_scenes=100)
    assert data.title_and_fold == "Scenes of sounds fold 1"
    assert sorted(listing.num_classes_with_clips for listing in data.listings.values()) == [2, 2, 3]


# ---- backgrounds ----------------------------------------------------------------------------------------------------


def write_backgrounds(root: Path, count: int) -> Path:
    for number in range(count):
        write_tone(root / f"{number}.flac", 50 + number, number, seconds=3, silence=0)
    return root


def backdrops(data: RecordedSoundscapesDataModule) -> dict[str, set[str]]:
    return {
        split: {dataset.scene(number).backdrop.source_file for number in range(40)}
        for split, dataset in datasets(data).items()
    }


@pytest.mark.parametrize("count", [3, 7])
def test_recorded_soundscapes__no_background_is_heard_on_two_sides(folder: Path, tmp_path: Path, count: int) -> None:
    root = write_backgrounds(tmp_path / "rooms", count)
    shutil.copy(root / "0.flac", root / "copy.flac")
    for fold in (1, 5):
        files = backdrops(set_up(folder, fold=fold, background_root=str(root)))
        assert all(files.values())
        assert len(set.union(*files.values())) == sum(map(len, files.values())) == count + 1
        assert any({str(root / "0.flac"), str(root / "copy.flac")} <= names for names in files.values())


def test_recorded_soundscapes__events_alone(folder: Path) -> None:
    data = set_up(folder, background=Silence(), return_stems=True)
    batch = next(iter(data.test_dataloader()))
    assert not batch["background"].any()
    torch.testing.assert_close(batch["stems"].sum(1), batch["waveform"], rtol=0, atol=1e-6)


def test_recorded_soundscapes__a_background_that_is_an_event_is_refused(folder: Path, tmp_path: Path) -> None:
    root = write_backgrounds(tmp_path / "rooms", 3)
    shutil.copy(folder / "low" / "2.flac", root / "low.flac")
    with pytest.raises(ValueError, match=r"'.*rooms/low.flac' holds the same audio as the event recording '.*low/2.fl"):
        set_up(folder, background_root=str(root))


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 6}, "fold must be one of 1, 2, 3, 4, 5 "),
        ({"num_folds": 2}, "leave nothing for training of 2 folds. Raise --data.num_folds, or pass --data.num_val_sc"),
        ({"background_root": "nowhere"}, "Background folder 'nowhere' does not exist. Pass --data.background_root"),
        (
            {"background_root": "{}/few"},
            "leave nothing for training of 2 background recordings in '.*few'. Add some, or pass",
        ),
        ({"background_root": "{}/none"}, "'.*none' has no usable recording. Pass --data.background_root"),
        ({"background_root": "a", "background": Silence()}, "background_root 'a' and background are both given"),
        ({"polyphony": (2, 3)}, r"A scene of 1 event\(s\) cannot have a polyphony of 2"),
        ({"num_train_scenes": 0}, "num_train_scenes must be at least 1, got 0"),
    ],
)
def test_recorded_soundscapes__what_cannot_be_is_refused(
    folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write_backgrounds(tmp_path / "few", 2)
    (tmp_path / "none").mkdir()
    if "background_root" in options:
        options = options | {"background_root": options["background_root"].format(tmp_path)}
    with pytest.raises(ValueError, match=message):
        set_up(folder, **options)


def test_recorded_soundscapes__folds_that_divide_what_belongs_together_are_refused(folder: Path) -> None:
    rows = [(f"{name}/{number}.flac", name, number % 3) for name in CLASS_FREQUENCIES for number in range(6)]
    table = write_csv(folder.with_suffix(".csv"), [("file", "label", "fold"), *rows])
    shutil.copy(folder / "low" / "0.flac", folder / "low" / "1.flac")
    with pytest.raises(ValueError, match="has 'low/0.flac' in fold 0 and 'low/1.flac' in fold 1, .* Correct the colu"):
        set_up(table, audio=str(folder), fold=1)


def test_recorded_soundscapes__recordings_of_several_classes_are_refused(folder: Path) -> None:
    rows = [("high/0.flac", "high"), ("low/0.flac", "low;high")]
    table = write_csv(folder.with_suffix(".csv"), [("file", "label"), *rows])
    with pytest.raises(ValueError, match="line 3: 'low/0.flac' has the labels low, high"):
        set_up(table, audio=str(folder))


# ---- real recordings ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_AUDIO.is_dir(), reason=f"real recordings are not in {REAL_AUDIO} (set SSLAM_REAL_AUDIO)")
def test_recorded_soundscapes__real_recordings(tmp_path: Path) -> None:
    with (REAL_AUDIO / "meta" / "esc50.csv").open() as file:
        recordings = list(csv.DictReader(file))
    columns = ("filename", "category", "fold", "src_file")
    rows = [tuple(row[column] for column in columns) for row in recordings]
    table = write_csv(tmp_path / "esc50.csv", [("file", "label", "fold", "group"), *rows])
    data = RecordedSoundscapesDataModule(
        str(table), audio=str(REAL_AUDIO / "audio"), num_test_scenes=40, return_stems=True, num_workers=0
    )
    data.setup("fit")
    data.setup("test")
    source = {row["filename"]: row["src_file"] for row in recordings}
    sides = {
        split: {source[Path(sound.source_file).name] for number in range(200) for sound in dataset.scene(number).sounds}
        for split, dataset in datasets(data).items()
    }
    assert not sides["training"] & sides["test"]
    assert not sides["training"] & sides["validation"]
    assert not sides["validation"] & sides["test"]
    assert data.num_test_scenes == sum(len(batch["index"]) for batch in data.test_dataloader())
    for batch in data.test_dataloader():
        assert np.isfinite(batch["waveform"].numpy()).all()
        torch.testing.assert_close(batch["stems"].sum(1) + batch["background"], batch["waveform"], rtol=0, atol=1e-6)
        assert float(batch["stems"].abs().max()) <= 1
