"""AudioSet: the official CSVs and audio under the names it has in the wild, and manifests of EAT and SSLAM."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_modules import AudioSetDataModule, LabelledManifestDataModule
from data_modules.audioset import FILE_NAME
from tests.data_modules.official_layouts import (
    AUDIOSET_AUDIO,
    AUDIOSET_CLASSES,
    AUDIOSET_COMMENTS,
    AUDIOSET_EVALUATION,
    write_audioset,
)


@pytest.fixture
def audioset(tmp_path: Path) -> Path:
    return write_audioset(tmp_path)


def make_data(root: Path, **kwargs: Any) -> AudioSetDataModule:
    return AudioSetDataModule(str(root), batch_size=2, num_workers=0, clip_seconds=0.1, **kwargs)


@pytest.mark.parametrize(
    "stem",
    [
        "abcdefghijk",
        "Yabcdefghijk",
        "abcdefghijk_30",
        "abcdefghijk_30000",
        "abcdefghijk_30.000_40.000",
        "Yabcdefghijk_30000_40000",
    ],
)
def test_file_name__gives_the_id_whatever_is_around_it(stem: str) -> None:
    match = FILE_NAME.fullmatch(stem)
    assert match is not None
    assert match["id"] == "abcdefghijk"


@pytest.mark.parametrize("video", ["Yabcdefghi_", "_30_40_50_6", "-----------", "Y__________"])
def test_file_name__ids_with_y_and_underscores_are_not_cut(video: str) -> None:
    for stem in (video, f"Y{video}", f"{video}_30", f"Y{video}_30_40"):
        match = FILE_NAME.fullmatch(stem)
        assert match is not None
        assert match["id"] == video, stem


@pytest.mark.parametrize("stem", ["abcdefghij", "abcdefghijkl", "Yabcdefghijk_", "abcdefghijk_copy", "abcdefghi k"])
def test_file_name__other_files_are_passed_over(stem: str) -> None:
    assert FILE_NAME.fullmatch(stem) is None


def test_audioset__reads_the_official_lists_and_audio_in_the_wild(
    audioset: Path, read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    data = make_data(audioset)
    assert read_split(data, "training") == {
        "Y--4gqARaEJE.wav": (["Speech", "Male speech, man speaking"], None),
        "--PJHxphWEs.flac": (["Speech"], None),
        "Y_abcdefg_1_420.000_430.000.wav": (["Speech", "Music"], None),
        "-0RWZT-miFs_5000.wav": (["Music"], None),
    }
    evaluation = {
        "007P6bFgRCU_10.wav": (["Male speech, man speaking"], None),
        "Y00AGIhlv-w0_300000_310000.wav": (["Music"], None),
    }
    assert read_split(data, "validation") == read_split(data, "test") == evaluation
    assert data.class_names == ["Speech", "Male speech, man speaking", "Music"]
    assert (data.title, data.single_label) == ("AudioSet-20K", False)
    listing = data.listings["test"]
    assert (listing.listed, listing.found, listing.num_classes, listing.num_classes_with_clips) == (2, 2, 3, 2)


def test_audioset__the_full_set_is_balanced_and_unbalanced_and_the_lists_may_lie_elsewhere(
    audioset: Path, tmp_path_factory: pytest.TempPathFactory, read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    metadata = tmp_path_factory.mktemp("csv")
    for file in audioset.glob("*.csv"):
        file.rename(metadata / file.name)
    data = make_data(audioset, subset="full", metadata=str(metadata))
    assert len(read_split(data, "training")) == 14
    assert data.title == "AudioSet-2M"


def test_audioset__a_held_out_part_of_the_training_set_validates(
    audioset: Path, read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    data = make_data(audioset, subset="full", val_fraction=0.4)
    training, validation = read_split(data, "training"), read_split(data, "validation")
    assert len(training) + len(validation) == 14
    assert 2 <= len(validation) <= 9
    assert not set(training) & set(validation)
    assert set(read_split(data, "test")) == {"007P6bFgRCU_10.wav", "Y00AGIhlv-w0_300000_310000.wav"}


def test_audioset__missing_audio_is_counted_and_no_class_moves(
    audioset: Path, read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    (audioset / "balanced_train" / "--PJHxphWEs.flac").unlink()
    data = make_data(audioset)
    with pytest.warns(UserWarning, match="AudioSet-20K is incomplete: 3 of the 4 training clips are there"):
        assert read_split(data, "training")["-0RWZT-miFs_5000.wav"] == (["Music"], None)
    assert (data.listings["training"].listed, data.listings["training"].missing) == (4, 1)


def test_audioset__the_first_of_two_copies_is_taken(
    audioset: Path, write_noise: Callable[..., None], read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    write_noise(audioset / "another" / "--4gqARaEJE.wav")
    assert "--4gqARaEJE.wav" in read_split(make_data(audioset), "training")


def test_audioset__half_of_the_audio_missing_is_an_error(audioset: Path) -> None:
    for name in AUDIOSET_AUDIO[:2]:
        (audioset / name).unlink()
    with pytest.raises(
        ValueError,
        match=r"AudioSet-20K: audio of 2 of the 4 training clips in '.*balanced_train_segments.csv' is missing, first "
        r"'.*/Y--4gqARaEJE.wav'. Pass --data.root .* --data.max_missing_fraction 0.51",
    ):
        make_data(audioset).setup("fit")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("class_labels_indices.csv", None, "AudioSet classes not found: there is no file .*--data.metadata"),
        ("eval_segments.csv", None, r"AudioSet segments not found: there is no file '.*eval_segments.csv'"),
        ("class_labels_indices.csv", "mid,name\n", r"lacks the column\(s\) index, display_name"),
        ("class_labels_indices.csv", AUDIOSET_CLASSES.replace("\n1,", "\n2,"), "line 3: expected index 1, got '2'"),
        ("eval_segments.csv", AUDIOSET_COMMENTS, "eval_segments.csv' lists no clip"),
        (
            "eval_segments.csv",
            AUDIOSET_COMMENTS + "abcdefghijk, 0, 10\n",
            "line 4: expected id, start, end, .* got 3 fields",
        ),
        (
            "eval_segments.csv",
            AUDIOSET_COMMENTS + AUDIOSET_EVALUATION + 'abcdefghijk, 0, 10, "/m/04rlf,/m/04rlg"\n',
            r"eval_segments.csv', line 6: unknown label '/m/04rlg', none of the 3 classes. Did you mean '/m/04rlf'\?",
        ),
    ],
)
def test_audioset__wrong_metadata_is_a_clear_error(audioset: Path, file: str, text: str | None, message: str) -> None:
    if text is None:
        (audioset / file).unlink()
    else:
        (audioset / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        make_data(audioset).setup("test")


def test_audioset__wrong_folders_and_fractions_are_clear_errors(audioset: Path) -> None:
    with pytest.raises(ValueError, match="AudioSet folder '.*nowhere' does not exist. Pass --data.root"):
        make_data(audioset / "nowhere").setup("test")
    with pytest.raises(ValueError, match="AudioSet metadata folder 'nowhere' does not exist. Pass --data.metadata"):
        make_data(audioset, metadata="nowhere").setup("test")
    with pytest.raises(ValueError, match="val_fraction must be at least 0 and less than 1, got 1"):
        make_data(audioset, val_fraction=1)
    with pytest.raises(ValueError, match="lists no clip for validation"):
        make_data(audioset, val_fraction=1e-9).setup("fit")


@pytest.fixture
def manifests(tmp_path: Path, write_noise: Callable[..., None]) -> Path:
    """SSLAM's files: labels may hold the folder, as those of SPASS do, or the bare id."""
    audio, folder = tmp_path / "audio", tmp_path / "manifests"
    folder.mkdir()
    (folder / "label_descriptors.csv").write_text('0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n')
    for split, names in (("train", ["a/Y1.wav", "a/Y2.wav"]), ("eval", ["b/Y3.wav"])):
        for name in names:
            write_noise(audio / name)
        (folder / f"{split}.tsv").write_text("\n".join([str(audio), *(f"{name}\t16000" for name in names)]) + "\n")
    (folder / "train.lbl").write_text("a/Y1\t/m/05zppz,/m/09x0r\na/Y2\t/m/09x0r\n")
    (folder / "eval.lbl").write_text("3\t/m/05zppz\n")
    return folder


def test_labelled_manifest__reads_manifests_of_eat_and_sslam(
    manifests: Path, read_split: Callable[..., dict[str, tuple[Any, ...]]]
) -> None:
    data = LabelledManifestDataModule(str(manifests), batch_size=2, num_workers=0, clip_seconds=0.1)
    assert read_split(data, "training") == {
        "Y1.wav": (["Speech", "Male speech, man speaking"], None),
        "Y2.wav": (["Speech"], None),
    }
    assert (
        read_split(data, "validation") == read_split(data, "test") == {"Y3.wav": (["Male speech, man speaking"], None)}
    )
    assert data.title == "AudioSet"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "eval.tsv",
            None,
            "Manifest not found: there is no file .*eval.tsv'. Pass --data.root with the folder of train",
        ),
        ("eval.lbl", None, "Labels not found: there is no file '.*eval.lbl'"),
        ("label_descriptors.csv", None, "Label descriptors not found"),
        ("label_descriptors.csv", "", "list no class"),
        ("label_descriptors.csv", "0,a,b\n2,c,d\n", "line 2: expected 1,label,name, got '2,c,d'"),
        ("eval.lbl", "3\t/m/05zppz\n4\t/m/05zppz\n", "have 2 lines and the manifest beside them 1 files"),
        ("eval.lbl", "3 /m/05zppz /m/09x0r\n", "line 1: expected id<TAB>label,label, got '3 /m"),
        ("eval.lbl", "4\t/m/05zppz\n", "line 1: is of '4', and the manifest's file is 'b/Y3.wav'"),
        ("eval.lbl", "3\t/m/05zpp\n", r"eval.lbl', line 1: unknown label '/m/05zpp'.*Did you mean '/m/05zppz'\?"),
    ],
)
def test_labelled_manifest__wrong_files_are_clear_errors(
    manifests: Path, file: str, text: str | None, message: str
) -> None:
    if text is None:
        (manifests / file).unlink()
    else:
        (manifests / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        LabelledManifestDataModule(str(manifests)).setup("test")
