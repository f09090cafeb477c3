"""Large lists are read once, and mapped by all later starts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules import AudioDataModule, AudioSetDataModule, FolderDataModule, LabelledManifestDataModule, listing
from data_modules import kept_listing as module
from data_modules.kept_listing import Listed, kept_listing
from tests.data_modules.official_layouts import write_noise


@pytest.fixture
def _keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_LIST_BYTES", 0)


pytestmark = pytest.mark.usefixtures("_keeps_all")


def test_kept_listing__is_made_once_until_the_list_changes(tmp_path: Path) -> None:
    made = []

    def make(is_kept: bool) -> Listed:
        made.append(is_kept)
        return Listed({"a": np.arange(len(made) * 3)}, {"number": len(made)})

    path = tmp_path / "list.tsv"
    path.write_text("a\n")
    first = kept_listing([path], {"root": "x"}, make)
    again = kept_listing([path], {"root": "x"}, make)
    assert made == [True]
    assert again.about == {"number": 1}
    assert np.array_equal(again.arrays["a"], first.arrays["a"])
    assert not again.arrays["a"].flags.owndata  # mapped
    assert kept_listing([path], {"root": "y"}, make).about == {"number": 2}
    os.utime(path, ns=(1, 1))
    assert kept_listing([path], {"root": "x"}, make).about == {"number": 3}
    path.write_text("b\nc\n")
    assert kept_listing([path], {"root": "x"}, make).about == {"number": 4}
    kept = [entry for entry in (Path(os.environ["SSLAM_CACHE"]) / "lists").iterdir() if entry.is_dir()]
    assert len(kept) == 2  # what was made of the old lists is gone


def test_kept_listing__a_damaged_one_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text("a\n")

    def make(_: bool) -> Listed:
        return Listed({"a": np.arange(3)}, {})

    kept_listing([path], {}, make)
    (about,) = Path(os.environ["SSLAM_CACHE"]).rglob("about.json")
    about.write_text("{")
    assert kept_listing([path], {}, make).arrays["a"].tolist() == [0, 1, 2]


def test_kept_listing__without_a_place_every_process_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.tsv"
    path.write_text("a\n")
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSLAM_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="Set SSLAM_CACHE to a folder that can be written"):
        assert kept_listing([path], {}, lambda is_kept: Listed({}, {"is_kept": is_kept})).about == {"is_kept": False}


def test_kept_listing__small_ones_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_LIST_BYTES", 2**20)
    path = tmp_path / "list.tsv"
    path.write_text("a\n")
    assert kept_listing([path], {}, lambda is_kept: Listed({}, {"is_kept": is_kept})).about == {"is_kept": False}
    assert not Path(os.environ["SSLAM_CACHE"]).exists()


def test_kept_listing__processes_that_start_at_once_make_it_once(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text("a\n" * 2**19)
    script = f"""
import time
from pathlib import Path
import numpy as np
from data_modules.kept_listing import Listed, kept_listing
def make(is_kept):
    time.sleep(0.5)
    with open({str(tmp_path / "made")!r}, "a") as stream:
        stream.write("x")
    return Listed({{"a": np.arange(3)}}, {{}})
assert kept_listing([Path({str(path)!r})], {{}}, make).arrays["a"].sum() == 3
"""
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"


def contents(data: AudioDataModule) -> dict[str, Any]:
    data.batch_size, data.num_workers, data.clip_seconds = 2, 0, 0.2
    data.setup("fit")
    loaders = {"training": data.train_dataloader(), "validation": data.val_dataloader()}
    return {
        "class_names": list(data.class_names),
        "listings": data.listings,
        "files": data._files_of("fit"),
        **{name: list(loader) for name, loader in loaders.items()},
    }


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_same(value, second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def write_audioset(folder: Path) -> Path:
    (folder / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/a,"A"\n1,/m/b,"B, or b"\n2,/m/c,"C"\n', encoding="utf-8"
    )
    ids = [f"{number:011}" for number in range(12)]
    for name, part in (("balanced_train", ids[:8]), ("eval", ids[8:])):
        lines = [f'{video}, 0.000, 10.000, "/m/{"abc"[int(video) % 3]},/m/a"' for video in part]
        (folder / f"{name}_segments.csv").write_text("# a\n# b\n# c\n" + "\n".join(lines) + "\n")
    for video in ids[1:]:
        write_noise(folder / f"Y{video}.wav")
    return folder


def write_labelled(folder: Path) -> Path:
    (folder / "label_descriptors.csv").write_text('0,/m/a,"A"\n1,/m/b,"B"\n')
    for name, count in (("train", 6), ("eval", 3)):
        names = [f"{name}{number}" for number in range(count)]
        (folder / f"{name}.tsv").write_text("\n".join([".", *(f"{clip}.wav\t1" for clip in names)]) + "\n")
        (folder / f"{name}.lbl").write_text("".join(f"{clip}\t/m/{'ab'[row % 2]}\n" for row, clip in enumerate(names)))
        for clip in names:
            write_noise(folder / f"{clip}.wav")
    return folder


def write_manifest(folder: Path) -> Path:
    for number in range(9):
        write_noise(folder / f"{number}.wav")
    (folder / "all.tsv").write_text("\n".join([".", *(f"{number}.wav\t1" for number in range(9))]) + "\n")
    return folder / "all.tsv"


@pytest.mark.parametrize(
    ("write", "make"),
    [
        (write_audioset, lambda place: AudioSetDataModule(str(place))),
        (write_audioset, lambda place: AudioSetDataModule(str(place), val_fraction=0.3)),
        (write_labelled, lambda place: LabelledManifestDataModule(str(place))),
        (write_manifest, lambda place: FolderDataModule(str(place), val_fraction=0.4)),
    ],
    ids=["audioset", "audioset_held_out", "labelled_manifest", "manifest"],
)
@pytest.mark.filterwarnings("ignore:.*is incomplete")
def test_data_modules__clips_of_kept_lists_are_those_of_the_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path], make: Callable[[Path], Any]
) -> None:
    place = write(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIN_LIST_BYTES", 2**20)
        plain = contents(make(place))
    assert not Path(os.environ["SSLAM_CACHE"]).exists()
    contents(make(place))

    def nothing(*_: Any) -> Any:
        raise AssertionError("the lists, folders and headers are read again")

    for name in ("data_modules.folder.read_manifest", "data_modules.labelled.take_stock",
                 "data_modules.listing.audio_files_below", "data_modules.audioset.read_segments",
                 "data_modules.labelled_manifest.read_manifest", "data_modules.clips.paths_sha256",
                 "data_modules.labelled.paths_sha256", "data_modules.folder.paths_sha256"):  # fmt: skip
        monkeypatch.setattr(name, nothing)
    assert_same(contents(make(place)), plain)


def test_labelled_manifest__one_root_is_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, scans = write_labelled(tmp_path), []
    original = listing.audio_files_below
    monkeypatch.setattr(listing, "audio_files_below", lambda root: scans.append(root) or original(root))
    LabelledManifestDataModule(str(place)).make_sets("fit")
    assert len(scans) == 1
