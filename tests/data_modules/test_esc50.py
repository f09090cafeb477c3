"""ESC-50 in its official layout, made small."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules import AudioFileDataset, ESC50DataModule
from data_modules.sampler import ClipLoader
from tests.data_modules.official_layouts import ESC50_HEADER, write_esc50

REAL_AUDIO = Path(os.environ.get("SSLAM_REAL_AUDIO", Path(__file__).parents[2] / "../shared/data")) / "esc50-fold4"


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    """Four classes, all but the cow in ESC-10, one clip of each in each of the five folds."""
    return write_esc50(tmp_path, [(fold, target) for fold in range(1, 6) for target in (0, 1, 3, 10)], seconds=0.5)


def test_esc50__excerpts_of_a_recording_are_known_by_its_source(esc50: Path) -> None:
    metadata = esc50 / "meta" / "esc50.csv"
    header, *rows = metadata.read_text().splitlines()
    sources = [[*row.split(",")[:5], str(number // 2), "A"] for number, row in enumerate(rows)]
    for lines, expected in (([row.split(",") for row in rows], None), (sources, [row // 2 for row in range(4, 20)])):
        metadata.write_text("\n".join([header, *map(",".join, lines)]))
        data = ESC50DataModule(str(esc50), fold=1, num_workers=0)
        data.setup("fit")
        groups = data.training_groups
        assert (groups if groups is None else groups.tolist()) == expected


def test_esc50__classes_stand_at_their_official_targets() -> None:
    data = ESC50DataModule()
    assert len(data.class_names) == len(set(data.class_names)) == 50
    official = {0: "dog", 9: "crow", 10: "rain", 14: "chirping_birds", 20: "crying_baby", 30: "door_wood_knock"}
    official |= {37: "clock_alarm", 40: "helicopter", 49: "hand_saw"}
    assert {target: data.class_names[target] for target in official} == official
    assert ESC50DataModule(esc10=True).class_names == [
        "dog",
        "rooster",
        "rain",
        "sea_waves",
        "crackling_fire",
        "crying_baby",
        "sneezing",
        "clock_tick",
        "helicopter",
        "chainsaw",
    ]
    assert (data.single_label, data.title, data.fold) == (True, "ESC-50", 1)
    assert ESC50DataModule(fold=4, esc10=True).title_and_fold == "ESC-10 fold 4"


def test_esc50__holds_one_fold_out_and_gives_rows_of_labels(esc50: Path) -> None:
    data = ESC50DataModule(str(esc50), fold=2, batch_size=4, num_workers=0, clip_seconds=0.5)
    data.setup("fit")
    assert len(data.train_set) == 16  # type: ignore[arg-type]
    loader = data.val_dataloader()
    assert isinstance(loader, ClipLoader)
    batch = next(iter(loader))
    assert torch.equal(batch["labels"], torch.eye(50)[[0, 1, 3, 10]])
    assert "polyphony" not in batch
    assert isinstance(data.val_set, AudioFileDataset)
    names = [Path(data.val_set.path(index)).stem for index in batch["index"].tolist()]
    assert names == ["clip04", "clip05", "clip06", "clip07"]
    for batch in data.train_dataloader():
        assert (batch["labels"].sum(dim=1) == 1).all()
    listing = data.listings["training"]
    assert (listing.listed, listing.found, listing.missing, listing.checked, listing.unreadable) == (16, 16, 0, 16, 0)
    assert (listing.num_classes, listing.num_classes_with_clips) == (50, 4)


def test_esc50__esc10_keeps_its_classes_only(esc50: Path) -> None:
    data = ESC50DataModule(str(esc50), esc10=True, num_workers=0)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch["labels"], torch.eye(10)[:3])


def test_esc50__nothing_may_be_held_out(esc50: Path) -> None:
    data = ESC50DataModule(str(esc50), fold=None, num_workers=0)
    data.setup("fit")
    data.setup("test")
    assert data.title_and_fold == "ESC-50"
    assert {listing.found for listing in data.listings.values()} == {20}
    assert set(data.listings) == {"training", "validation", "test"}


def test_esc50__missing_metadata_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"ESC-50 metadata not found: there is no file '.*meta/esc50.csv'. Pass --data.root"
    ):
        ESC50DataModule(str(tmp_path)).setup("fit")


@pytest.mark.parametrize(("folder", "what"), [("", "folder"), ("audio", "audio folder")])
def test_esc50__a_missing_folder_is_a_clear_error(esc50: Path, folder: str, what: str) -> None:
    shutil.rmtree(esc50 / folder)
    with pytest.raises(ValueError, match=rf"ESC-50 {what} '.*' does not exist. Pass --data.root"):
        ESC50DataModule(str(esc50)).setup("fit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,fold,category,src_file\n", r"lacks the column\(s\) target: its first line must name filename, fold"),
        ("", r"lacks the column\(s\) filename, fold, target, category"),
        (ESC50_HEADER + "\n", "lists nothing after its first line. Pass --data.root"),
        (
            ESC50_HEADER + "\na.wav,1,0,dog,True,1,A\nb.wav,one,0,dog,True,1,A\n",
            "line 3: fold and target must be whole numbers, got 'one' and '0'",
        ),
        (ESC50_HEADER + "\na.wav,1,0\n", "line 2: has too few fields"),
        (
            ESC50_HEADER + "\na.wav,1,0,dgo,True,1,A\n",
            "line 2: unknown label, target 0 is 'dog' and not 'dgo'. Correct",
        ),
        (ESC50_HEADER + "\na.wav,1,50,dog,True,1,A\n", "line 2: unknown label, target 50 is none of 0 to 49"),
        (ESC50_HEADER + "\nclip00.wav,1,0,dog,True,1,A\n", r"fold 1: '.*esc50.csv' lists no clip for training"),
        (ESC50_HEADER + "\nclip00.wav,2,0,dog,True,1,A\n", r"fold 1: '.*esc50.csv' lists no clip for validation"),
    ],
)
def test_esc50__wrong_metadata_is_a_clear_error(esc50: Path, text: str, message: str) -> None:
    (esc50 / "meta" / "esc50.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        ESC50DataModule(str(esc50)).setup("fit")


def test_esc50__a_fold_out_of_range_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"fold must be one of \(1, 2, 3, 4, 5\), or null to hold nothing out, got 6"):
        ESC50DataModule(fold=6)


def test_esc50__some_missing_recordings_are_a_warning_and_no_class_moves(esc50: Path) -> None:
    for number in (0, 4, 8, 12, 16):  # all dogs
        (esc50 / "audio" / f"clip{number:02}.wav").unlink()
    data = ESC50DataModule(str(esc50), num_workers=0, batch_size=3)
    with pytest.warns(UserWarning, match="ESC-50 fold 1 is incomplete: 3 of the 4 test clips are there"):
        data.setup("test")
    assert data.class_names[0] == "dog"
    assert torch.equal(next(iter(data.test_dataloader()))["labels"], torch.eye(50)[[1, 3, 10]])
    listing = data.listings["test"]
    assert (listing.listed, listing.found, listing.missing, listing.num_classes_with_clips) == (4, 3, 1, 3)


@pytest.mark.parametrize(
    ("kept", "options", "message"),
    [
        (0, {}, r"audio of 16 of the 16 training clips in '.*esc50.csv' is missing, first '.*clip04.wav'.*audio\.$"),
        (
            12,
            {},
            r"8 of the 16 training clips .* first '.*clip12.wav'. Pass --data.root with the folder of the complete "
            "audio, or accept fewer clips: --data.max_missing_fraction 0.51",
        ),
        (4, {"max_missing_fraction": 1.0}, "16 of the 16 training clips"),
    ],
)
def test_esc50__half_of_the_audio_missing_is_an_error(
    esc50: Path, kept: int, options: dict[str, Any], message: str
) -> None:
    for path in sorted((esc50 / "audio").iterdir())[kept:]:
        path.unlink()
    with pytest.raises(ValueError, match=message):
        ESC50DataModule(str(esc50), **options).setup("fit")


def test_esc50__more_missing_recordings_can_be_accepted(esc50: Path) -> None:
    for path in sorted((esc50 / "audio").iterdir())[12:]:
        path.unlink()
    data = ESC50DataModule(str(esc50), max_missing_fraction=0.51)
    with pytest.warns(UserWarning, match="8 of the 16 training clips are there"):
        data.setup("fit")


@pytest.mark.skipif(not REAL_AUDIO.is_dir(), reason=f"real recordings are not in {REAL_AUDIO} (set SSLAM_REAL_AUDIO)")
def test_esc50__reads_real_recordings() -> None:
    data = ESC50DataModule(str(REAL_AUDIO), fold=1, batch_size=8, num_workers=0)
    data.setup("fit")
    assert len(data.class_names) == 50
    assert len(data.train_set) + len(data.val_set) == 400  # type: ignore[arg-type]
    assert data.listings["training"].num_classes_with_clips == 50
    batch = next(iter(data.train_dataloader()))
    assert batch["waveform"].shape == (8, 80_000)
    assert batch["num_samples"].tolist() == [80_000] * 8
