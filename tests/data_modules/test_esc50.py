"""ESC-50 in its official layout, made small."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_modules import AudioFileDataset, ESC50DataModule
from data_modules.sampler import ClipLoader

HEADER = "filename,fold,target,category,esc10,src_file,take"
CLASSES = {0: "dog", 1: "rooster", 10: "rain", 14: "chirping_birds"}
REAL_AUDIO = Path(os.environ.get("SSLAM_REAL_AUDIO", Path(__file__).parents[2] / "../shared/data")) / "esc50-fold4"


@pytest.fixture
def esc50(tmp_path: Path, write_clips: Callable[..., list[Path]]) -> Path:
    """Four classes, of which dog and rain are in ESC-10, one clip of each in each of the five folds."""
    clips = iter(write_clips(tmp_path / "audio", 20, 0.5))
    rows = [
        f"{next(clips).name},{fold},{target},{name},{name in ('dog', 'rain')},1,A"
        for fold in range(1, 6)
        for target, name in CLASSES.items()
    ]
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return tmp_path


def test_esc50__holds_one_fold_out_and_gives_rows_of_labels(esc50: Path) -> None:
    data = ESC50DataModule(str(esc50), fold=2, batch_size=4, num_workers=0, clip_seconds=0.5)
    data.setup("fit")
    assert data.class_names == ["dog", "rooster", "rain", "chirping_birds"]
    assert len(data.train_set) == 16  # type: ignore[arg-type]
    loader = data.val_dataloader()
    assert isinstance(loader, ClipLoader)
    batch = next(iter(loader))
    assert torch.equal(batch["labels"], torch.eye(4))
    assert isinstance(data.val_set, AudioFileDataset)
    names = [Path(data.val_set.path(index)).stem for index in batch["index"].tolist()]
    assert names == ["clip04", "clip05", "clip06", "clip07"]
    for batch in data.train_dataloader():
        assert (batch["labels"].sum(dim=1) == 1).all()


def test_esc50__esc10_keeps_its_classes_only(esc50: Path) -> None:
    data = ESC50DataModule(str(esc50), esc10=True, num_workers=0)
    data.setup("test")
    assert data.class_names == ["dog", "rain"]
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch["labels"], torch.eye(2))


def test_esc50__missing_metadata_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"ESC-50 metadata not found: meta/esc50.csv is missing under '.*'. Pass --data.root"
    ):
        ESC50DataModule(str(tmp_path)).setup("fit")


def test_esc50__a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ESC-50 folder '.*nowhere' does not exist. Pass --data.root"):
        ESC50DataModule(str(tmp_path / "nowhere")).setup("fit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,fold,category,src_file\n", r"lacks the column\(s\) target, esc10"),
        ("", r"lacks the column\(s\) filename, fold, target, category, esc10"),
        (HEADER + "\n", "lists no recording"),
        (
            HEADER + "\na.wav,1,0,dog,True,1,A\nb.wav,one,0,dog,True,1,A\n",
            "line 3: fold and target must be whole numbers",
        ),
        (HEADER + "\na.wav,1,0,dog,True,1,A\n", "has fold 1 only"),
    ],
)
def test_esc50__wrong_metadata_is_a_clear_error(esc50: Path, text: str, message: str) -> None:
    (esc50 / "meta" / "esc50.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        ESC50DataModule(str(esc50)).setup("fit")


def test_esc50__a_fold_out_of_range_is_a_clear_error(esc50: Path) -> None:
    with pytest.raises(ValueError, match=r"fold 6 is not in '.*': its folds are \[1, 2, 3, 4, 5\]. Pass --data.fold"):
        ESC50DataModule(str(esc50), fold=6).setup("fit")


def test_esc50__some_missing_recordings_are_a_warning_and_no_class_moves(esc50: Path) -> None:
    for number in (0, 4, 8, 12, 16):  # all dogs
        (esc50 / "audio" / f"clip{number:02}.wav").unlink()
    data = ESC50DataModule(str(esc50), num_workers=0, batch_size=3)
    with pytest.warns(UserWarning, match="ESC-50 is incomplete: 15 of the 20 recordings listed are in .*audio"):
        data.setup("test")
    assert data.class_names[0] == "dog"
    assert torch.equal(next(iter(data.test_dataloader()))["labels"], torch.eye(4)[1:])


@pytest.mark.parametrize(
    ("fold", "kept", "message"), [(1, 0, "0 of the 20 recordings"), (5, 4, "held-out fold 5 is missing")]
)
@pytest.mark.filterwarnings("ignore:ESC-50 is incomplete")
def test_esc50__missing_recordings_without_which_nothing_goes_are_an_error(
    esc50: Path, fold: int, kept: int, message: str
) -> None:
    for path in sorted((esc50 / "audio").iterdir())[kept:]:
        path.unlink()
    with pytest.raises(ValueError, match=message):
        ESC50DataModule(str(esc50), fold=fold).setup("fit")


@pytest.mark.skipif(not REAL_AUDIO.is_dir(), reason=f"real recordings are not in {REAL_AUDIO} (set SSLAM_REAL_AUDIO)")
def test_esc50__reads_real_recordings() -> None:
    data = ESC50DataModule(str(REAL_AUDIO), fold=1, batch_size=8, num_workers=0)
    data.setup("fit")
    assert len(data.class_names) == 50
    assert len(data.train_set) + len(data.val_set) == 400  # type: ignore[arg-type]
    batch = next(iter(data.train_dataloader()))
    assert batch["waveform"].shape == (8, 80_000)
    assert batch["num_samples"].tolist() == [80_000] * 8
