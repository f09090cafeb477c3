"""SPASS, URBAN-SED and IDMT-DESED-FL, made small, and the degree of polyphony that their events give."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules import IDMTDESEDFLDataModule, SPASSDataModule, UrbanSEDDataModule
from data_modules.events import Event, clip_polyphony, polyphony_of
from tests.data_modules.official_layouts import (
    DESED_HEADER,
    SPASS_TABLES,
    write_desed,
    write_noise,
    write_spass,
    write_urban_sed,
)

SMALL: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "clip_seconds": 0.1}


def test_clip_polyphony__agrees_with_counting_at_every_moment() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 5, 12):
        for _ in range(20):
            onsets = rng.integers(0, 50, size)
            events = np.stack([onsets, onsets + rng.integers(1, 30, size), rng.integers(0, 3, size)], axis=1)
            expected = max(
                (sum(onset <= moment < offset for onset, offset, _ in events) for moment in range(80)), default=0
            )
            assert clip_polyphony(events.astype(np.float32)) == expected


def test_polyphony_of__events_that_only_touch_do_not_sound_at_once() -> None:
    touching = [Event(0, 0.0, 1.1), Event(1, 1.1, 2.0)]
    assert polyphony_of([touching, [*touching, Event(0, 1.0, 1.2)], []]).tolist() == [1, 2, 0]


# ---- URBAN-SED ------------------------------------------------------------------------------------------------------


@pytest.fixture
def urban_sed(tmp_path: Path) -> Path:
    return write_urban_sed(tmp_path)


def test_urban_sed__reads_the_official_layout(
    urban_sed: Path, read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    data = UrbanSEDDataModule(str(urban_sed), **SMALL)
    assert read_split(data, "training") == {
        "soundscape_train_uniform0.wav": (["siren"], 1),
        "soundscape_train_uniform1.wav": (["car_horn", "siren"], 2),
        "soundscape_train_uniform2.wav": (["car_horn", "siren"], 2),
    }
    assert read_split(data, "validation") == {"soundscape_validate_uniform0.wav": (["siren"], 1)}
    assert read_split(data, "test") == {"soundscape_test_uniform0.wav": ([], 0)}
    assert data.class_names == [
        "air_conditioner",
        "car_horn",
        "children_playing",
        "dog_bark",
        "drilling",
        "engine_idling",
        "gun_shot",
        "jackhammer",
        "siren",
        "street_music",
    ]
    assert (data.title, data.single_label) == ("URBAN-SED", False)
    listing = data.listings["training"]
    assert (listing.listed, listing.found, listing.num_classes, listing.num_classes_with_clips) == (3, 3, 10, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.5\t3.25\tsirene", r"line 2: unknown label 'sirene', none of the 10 classes. Did you mean 'siren'\?"),
        ("1.5,3.25,siren", "line 2: expected start<TAB>end<TAB>label, got '1.5,3.25,siren'"),
        ("a\tb\tsiren", "line 2: onset and offset must be seconds, got 'a' and 'b'"),
        ("3.0\t2.0\tsiren", "line 2: an event must start at 0 s or later and not end before, got 3.0 to 2.0"),
        ("nan\t2.0\tsiren", "line 2: an event must start at 0 s"),
    ],
)
def test_urban_sed__a_wrong_line_is_a_clear_error(urban_sed: Path, line: str, message: str) -> None:
    path = urban_sed / "annotations" / "test" / "soundscape_test_uniform0.txt"
    path.write_text(f"0.0\t1.0\tsiren\n{line}\n")
    with pytest.raises(ValueError, match=f"soundscape_test_uniform0.txt', {message}"):
        UrbanSEDDataModule(str(urban_sed)).setup("test")


def test_urban_sed__missing_parts_are_clear_errors(urban_sed: Path) -> None:
    for file in sorted((urban_sed / "audio" / "train").iterdir())[1:]:
        file.unlink()
    with pytest.raises(ValueError, match=r"URBAN-SED: audio of 2 of the 3 training clips .*first '.*uniform1.wav'"):
        UrbanSEDDataModule(str(urban_sed)).setup("fit")
    for file in (urban_sed / "annotations" / "train").glob("*.txt"):
        file.unlink()
    with pytest.raises(ValueError, match="annotations/train' lists no clip for training"):
        UrbanSEDDataModule(str(urban_sed)).setup("fit")
    shutil.rmtree(urban_sed / "audio")
    with pytest.raises(ValueError, match="URBAN-SED audio folder '.*audio/test' does not exist. Pass --data.root"):
        UrbanSEDDataModule(str(urban_sed)).setup("test")
    shutil.rmtree(urban_sed / "annotations")
    with pytest.raises(ValueError, match="URBAN-SED annotation folder '.*annotations/test' does not exist"):
        UrbanSEDDataModule(str(urban_sed)).setup("test")
    with pytest.raises(ValueError, match="URBAN-SED folder '.*nowhere' does not exist. Pass --data.root"):
        UrbanSEDDataModule(str(urban_sed / "nowhere")).setup("test")


# ---- SPASS ----------------------------------------------------------------------------------------------------------

SPASS_TABLE = SPASS_TABLES["square"]


@pytest.fixture
def spass(tmp_path: Path) -> Path:
    """The square, and one clip of another scene."""
    write_noise(tmp_path / "Park_audio_files" / "park00001.wav")
    return write_spass(tmp_path, "square")


def test_spass__reads_a_scene_and_splits_the_sorted_names(
    spass: Path, read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    data = SPASSDataModule(str(spass), "square", **SMALL)
    assert read_split(data, "training") == {
        f"square{number:05}.wav": (["dog", "rain"] if number % 2 else ["rain", "wind"], 1 if number == 1 else 2)
        for number in range(1, 7)
    }
    held_out = {"square00007.wav": (["dog", "rain"], 2), "square00008.wav": (["rain", "wind"], 2)}
    assert read_split(data, "validation") == read_split(data, "test") == held_out
    assert (data.title, data.single_label) == ("SPASS square", False)


def test_spass__without_times_there_is_no_polyphony_and_the_table_may_lie_at_the_root(
    spass: Path, read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    path = spass / "SPASS_META_DATA" / SPASS_TABLE
    rows = [",".join(row.split(",")[:2]) for row in path.read_text().splitlines()]
    path.unlink()
    (spass / SPASS_TABLE).write_text("\n".join(rows) + "\n")
    data = SPASSDataModule(str(spass), "square", **SMALL)
    assert read_split(data, "test") == {
        "square00007.wav": (["dog", "rain"], None),
        "square00008.wav": (["rain", "wind"], None),
    }


@pytest.mark.parametrize(
    ("scene", "count", "places"),
    [
        ("market", 22, {0: "air_conditioner", 1: "airborne", 2: "alarm", 21: "wind"}),
        ("park", 23, {0: "airborne", 1: "bells", 9: "fireworks", 22: "wind"}),
        ("square", 27, {0: "airborne", 1: "alarm", 2: "bells", 9: "crowd", 10: "cutting", 26: "wind"}),
        ("street", 27, {0: "air_conditioner", 12: "drilling", 13: "explosives", 26: "wind"}),
        ("waterfront", 29, {0: "Vwater", 1: "airborne", 27: "waves", 28: "wind"}),
    ],
)
def test_spass__every_scene_has_its_classes_in_their_places(scene: Any, count: int, places: dict[int, str]) -> None:
    names = SPASSDataModule(scene=scene).class_names
    assert len(set(names)) == len(names) == count
    assert {place: names[place] for place in places} == places


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"SPASS labels not found: there is no file '.*3_MatrixLabelsSquare.csv'. Put the official file there"),
        ("audio_filename,label\n", r"lacks the column\(s\) class: its first line must name audio_filename, class"),
        ("audio_filename,class\n", "lists nothing after its first line"),
        ("audio_filename,class\na.wav,river\n", "line 2: unknown label 'river', none of the 27 classes"),
        ("audio_filename,class,start,end\na.wav,dog,2,1\n", "line 2: an event must start .*got 2 to 1"),
        ("audio_filename,class\na.wav,dog\n", "SPASS square: '.*' lists no clip for training"),
    ],
)
def test_spass__wrong_labels_are_a_clear_error(spass: Path, text: str | None, message: str) -> None:
    path = spass / "SPASS_META_DATA" / SPASS_TABLE
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        SPASSDataModule(str(spass), "square").setup("fit")


def test_spass__missing_audio_and_folders_are_clear_errors(spass: Path) -> None:
    for number in (2, 3, 4):
        (spass / "Square_audio_files" / f"square{number:05}.wav").unlink()
    with pytest.raises(
        ValueError, match=r"SPASS square: audio of 3 of the 6 training clips .*first '.*square00002.wav'"
    ):
        SPASSDataModule(str(spass), "square").setup("fit")
    with pytest.raises(ValueError, match="SPASS folder '.*nowhere' does not exist. Pass --data.root"):
        SPASSDataModule(str(spass / "nowhere")).setup("fit")


# ---- IDMT-DESED-FL --------------------------------------------------------------------------------------------------


@pytest.fixture
def desed(tmp_path: Path) -> Path:
    return write_desed(tmp_path)


def test_desed_fl__reads_tables_of_events(desed: Path, read_split: Callable[..., dict[str, tuple[Any, ...]]]) -> None:
    data = IDMTDESEDFLDataModule(str(desed), validation_events="validation.tsv", **SMALL)
    assert read_split(data, "training") == {"1.wav": (["Dishes", "Speech"], 3), "2.wav": ([], 0)}
    assert read_split(data, "validation") == {"3.wav": (["Cat"], 1)}
    assert read_split(data, "test") == {"4.wav": (["Vacuum_cleaner"], 1)}
    assert data.class_names == [
        "Alarm_bell_ringing",
        "Blender",
        "Cat",
        "Dishes",
        "Dog",
        "Electric_shaver_toothbrush",
        "Frying",
        "Running_water",
        "Speech",
        "Vacuum_cleaner",
    ]
    assert (data.title, data.single_label) == ("IDMT-DESED-FL", False)


def test_desed_fl__tables_may_lie_elsewhere_and_validation_may_be_left_out(desed: Path) -> None:
    data = IDMTDESEDFLDataModule(
        str(desed / "audio"), train_events=str(desed / "train.tsv"), test_events=str(desed / "test.tsv"), **SMALL
    )
    data.setup("fit")
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match="IDMTDESEDFLDataModule has no validation data"):
        data.setup("validate")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "IDMT-DESED-FL test events not found: there is no file '.*test.tsv'. Pass --data.test_events"),
        ("filename\tevent_labels\n", r"lacks the column\(s\) onset, offset, event_label"),
        (DESED_HEADER, "lists nothing after its first line. Pass --data.test_events"),
        (DESED_HEADER + "4.wav\t1\t2\tcat\n", r"test.tsv', line 2: unknown label 'cat'.*Did you mean 'Cat'\?"),
        (DESED_HEADER + "4.wav\t1\t\tCat\n", "line 2: onset and offset must be seconds, got '1' and ''"),
        (DESED_HEADER + "4.wav\n", "line 2: has too few fields"),
        (DESED_HEADER + "5.wav\t1\t2\tCat\n", "audio of 1 of the 1 test clips .* first '.*/5.wav'. Pass --data.root"),
    ],
)
def test_desed_fl__wrong_tables_are_clear_errors(desed: Path, text: str | None, message: str) -> None:
    if text is None:
        (desed / "test.tsv").unlink()
    else:
        (desed / "test.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        IDMTDESEDFLDataModule(str(desed)).setup("test")


def test_desed_fl__a_missing_folder_is_a_clear_error(desed: Path) -> None:
    with pytest.raises(ValueError, match="IDMT-DESED-FL folder '.*nowhere' does not exist. Pass --data.root"):
        IDMTDESEDFLDataModule(str(desed / "nowhere")).setup("test")
