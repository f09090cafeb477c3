"""Speech Commands in its official layout, made small."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data_modules import SpeechCommandsDataModule
from data_modules.audio_file_dataset import AudioFileDataset
from data_modules.speech_commands import NEW_WORDS, SUPERB_CLASSES, WORDS
from tests.data_modules.official_layouts import write_speech_commands


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    return write_speech_commands(tmp_path / "v0.01", [word for word in WORDS if word not in NEW_WORDS])


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    return write_speech_commands(tmp_path / "v0.02", WORDS)


def make_data(root: Path, **kwargs: Any) -> SpeechCommandsDataModule:
    return SpeechCommandsDataModule(str(root), batch_size=16, num_workers=0, clip_seconds=0.1, **kwargs)


def classes_of(dataset: Any, class_names: Any) -> list[tuple[str, str]]:
    """Folder and class of every clip, without reading audio."""
    assert isinstance(dataset, AudioFileDataset)
    columns = dataset.labels.toarray().argmax(axis=1)  # type: ignore[union-attr]
    assert (dataset.labels.sum(axis=1) == 1).all()  # type: ignore[union-attr]
    return [(Path(dataset.path(row)).parent.name, class_names[column]) for row, column in enumerate(columns)]


def test_speech_commands__classes_have_their_places() -> None:
    data = SpeechCommandsDataModule()
    assert len(data.class_names) == 35
    places = {0: "backward", 4: "dog", 11: "go", 17: "nine", 34: "zero"}
    assert {place: data.class_names[place] for place in places} == places
    assert SpeechCommandsDataModule(classes=12).class_names == [
        "yes",
        "no",
        "up",
        "down",
        "left",
        "right",
        "on",
        "off",
        "stop",
        "go",
        "_unknown_",
        "_silence_",
    ]
    assert data.single_label


@pytest.mark.parametrize(("classes", "version"), [(12, "v0.01"), (35, "v0.02")])
def test_speech_commands__a_word_set_is_of_a_version_with_a_folder_of_its_own(classes: Any, version: str) -> None:
    data = SpeechCommandsDataModule(classes=classes)
    assert (data.title.split(",")[0], data.root) == (f"Speech Commands {version}", f"data/speech_commands_{version}")
    assert SpeechCommandsDataModule("elsewhere", classes).root == "elsewhere"


def test_speech_commands__35_words_are_split_by_the_official_lists(version_2: Path) -> None:
    data = make_data(version_2)
    data.setup("fit")
    data.setup("test")
    for dataset, speaker in ((data.train_set, "0a"), (data.val_set, "1b"), (data.test_set, "2c")):
        clips = classes_of(dataset, data.class_names)
        assert clips == [(word, word) for word in WORDS]
        assert all(speaker in dataset.path(row) for row in range(35))  # type: ignore[union-attr]
    batch = next(iter(data.test_dataloader()))
    assert batch["labels"].shape == (16, 35)
    assert batch["num_samples"].tolist() == [1600] * 16
    assert data.listings["training"].listed == data.listings["training"].found == 35


def test_speech_commands__12_classes_have_unknown_words_and_silence_in_separate_parts(version_1: Path) -> None:
    data = make_data(version_1, classes=12)
    data.setup("fit")
    data.setup("test")
    starts: dict[str, list[float]] = {}
    for split, dataset, count in (
        ("training", data.train_set, 8 + 16),
        ("validation", data.val_set, 1 + 2),
        ("test", data.test_set, 1 + 2),
    ):
        clips = classes_of(dataset, data.class_names)
        words = [clip for clip in clips if clip[0] != "_background_noise_"]
        assert len(words) == 30
        assert all(name == (word if word in SUPERB_CLASSES else "_unknown_") for word, name in words)
        silence = [row for row, clip in enumerate(clips) if clip[1] == "_silence_"]
        assert len(silence) == len(clips) - 30 == count
        assert isinstance(dataset, AudioFileDataset)
        assert dataset.start_seconds is not None
        tap = [row for row in silence if "running_tap" in dataset.path(row)]
        starts[split] = dataset.start_seconds[tap].round(4).tolist()
    assert starts["training"] == pytest.approx([0.1 * piece for piece in range(16)])
    assert starts["validation"] == pytest.approx([1.6, 1.7])
    assert starts["test"] == pytest.approx([1.8, 1.9])
    tap_audio, _ = soundfile.read(version_1 / "_background_noise_" / "running_tap.wav", dtype="float32")
    assert isinstance(data.val_set, AudioFileDataset)
    np.testing.assert_array_equal(data.val_set[len(data.val_set) - 1]["waveform"], tap_audio[27_200:28_800])


def test_speech_commands__12_classes_read_the_official_test_set(
    version_1: Path, tmp_path: Path, write_noise: Callable[..., None]
) -> None:
    for name in SUPERB_CLASSES:
        write_noise(tmp_path / "official" / name / "x_nohash_0.wav")
    data = make_data(version_1, classes=12, test_root=str(tmp_path / "official"))
    data.setup("test")
    clips = classes_of(data.test_set, data.class_names)
    assert sorted(clips) == sorted((name, name) for name in SUPERB_CLASSES)
    write_noise(tmp_path / "official" / "silence" / "a.wav")
    with pytest.raises(ValueError, match="unknown label, the folder 'silence' is none of yes, no, .*--data.test_root"):
        data.setup("test")
    shutil.rmtree(tmp_path / "official" / "silence")
    shutil.rmtree(tmp_path / "official" / "_silence_")
    with pytest.raises(ValueError, match="has no audio of _silence_. Pass --data.test_root"):
        data.setup("test")


def test_speech_commands__a_test_set_of_our_own_has_another_title_and_one_warning(
    version_1: Path, tmp_path: Path, write_noise: Callable[..., None]
) -> None:
    """As the tables would mix it with the published test set otherwise."""
    for name in SUPERB_CLASSES:
        write_noise(tmp_path / "official" / name / "x_nohash_0.wav")
    official = make_data(version_1, classes=12, test_root=str(tmp_path / "official"))
    own, words = make_data(version_1, classes=12), SpeechCommandsDataModule()
    titles = ["Speech Commands v0.01", "Speech Commands v0.01, own test set", "Speech Commands v0.02"]
    assert [data.title for data in (official, own, words)] == titles
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        official.setup("fit")
        official.setup("test")
        own.setup("fit")
    with pytest.warns(UserWarning, match=r"must not be compared .* Pass --data\.test_root") as warned:
        own.setup("test")
    assert len(warned) == 1


def test_speech_commands__listed_recordings_that_are_missing_are_counted(version_2: Path) -> None:
    (version_2 / "yes" / "2c_nohash_0.wav").unlink()
    data = make_data(version_2)
    with pytest.warns(UserWarning, match="Speech Commands v0.02 is incomplete: 34 of the 35 test clips are there"):
        data.setup("test")
    for word in WORDS[:20]:
        (version_2 / word / "2c_nohash_0.wav").unlink()
    with pytest.raises(ValueError, match=r"audio of 21 of the 35 test clips .*first '.*backward/2c_nohash_0.wav'"):
        data.setup("test")


def test_speech_commands__the_wrong_version_is_a_clear_error(version_1: Path, version_2: Path) -> None:
    with pytest.raises(ValueError, match=r"'backward' is a word without recordings \(5 such\). 35 classes need v0.02"):
        make_data(version_1).setup("fit")
    # The lists come first; v0.02's name a word that v0.01 has not.
    with pytest.raises(ValueError, match=r"validation_list.txt', line 1: unknown label 'backward', none of the 30"):
        make_data(version_2, classes=12).setup("fit")


def test_speech_commands__unknown_folders_lists_and_missing_files_are_clear_errors(
    version_2: Path, version_1: Path, write_noise: Callable[..., None]
) -> None:
    with pytest.raises(ValueError, match="Speech Commands folder '.*nowhere' does not exist. Pass --data.root"):
        make_data(version_2 / "nowhere").setup("fit")
    with pytest.raises(ValueError, match="test_root is the test set of 12 classes, got 35"):
        make_data(version_2, test_root="official")
    write_noise(version_2 / "hello" / "a.wav")
    with pytest.raises(ValueError, match=r"unknown label, 'hello' is no word \(1 such\). 35 classes need v0.02"):
        make_data(version_2).setup("fit")
    (version_2 / "testing_list.txt").write_text("yes/2c_nohash_0.wav\nyess/2c_nohash_0.wav\n")
    with pytest.raises(ValueError, match=r"testing_list.txt', line 2: unknown label 'yess'.*Did you mean 'yes'\?"):
        make_data(version_2).setup("fit")
    (version_2 / "testing_list.txt").write_text("")
    shutil.rmtree(version_2 / "hello")
    with pytest.raises(ValueError, match="lists no clip for test"):
        make_data(version_2).setup("test")
    (version_2 / "validation_list.txt").unlink()
    with pytest.raises(
        ValueError, match=r"List of Speech Commands not found: .*validation_list.txt'. Pass --data.root"
    ):
        make_data(version_2).setup("fit")
    shutil.rmtree(version_1 / "_background_noise_")
    with pytest.raises(ValueError, match="no audio in '.*_background_noise_', from which the class _silence_ is cut"):
        make_data(version_1, classes=12).setup("fit")


def test_speech_commands__a_damaged_noise_file_is_a_clear_error(version_1: Path) -> None:
    (version_1 / "_background_noise_" / "pink_noise.wav").write_text("no audio")
    with pytest.raises(ValueError, match="Cannot read the noise file '.*pink_noise.wav'. Take the official file"):
        make_data(version_1, classes=12).setup("fit")
