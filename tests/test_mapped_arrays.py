"""Arrays that are made once and mapped, and texts in arrays."""

import os
from pathlib import Path

import numpy as np
import pytest

from sslam.mapped_arrays import Texts, map_arrays, read_about, write_arrays

NAMES = ["b/é.wav", "", "a.flac", os.fsdecode(b"\xff.wav"), "x" * 300, "last"]


def test_texts__are_a_list_of_any_names() -> None:
    texts = Texts.of(iter(NAMES))
    assert list(texts) == NAMES
    assert (texts[-1], texts[1:3], len(texts)) == ("last", ["", "a.flac"], 6)
    assert list(texts.select(np.array([3, 0, 5, 1, 3]))) == [NAMES[row] for row in (3, 0, 5, 1, 3)]
    assert list(texts.select(np.array([], np.int64))) == list(Texts.of([])) == []
    with pytest.raises(IndexError):
        texts[6]


def test_texts__of_many_blocks() -> None:
    names = [f"{number}.wav" for number in range(70_000)]
    assert list(Texts.of(names)) == names


def test_write_arrays__are_mapped_and_replace_old_ones(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    write_arrays(folder, {"old": np.arange(3)}, {"version": 0})
    write_arrays(folder, Texts.of(NAMES).arrays("names") | {"sizes": np.arange(5.0)}, {"version": 1})
    arrays = map_arrays(folder)
    assert read_about(folder) == {"version": 1}
    assert set(arrays) == {"names_characters", "names_ends", "sizes"}
    assert list(Texts.from_arrays("names", arrays)) == NAMES
    assert not arrays["sizes"].flags.owndata
    assert not arrays["sizes"].flags.writeable


def test_write_arrays__an_interrupted_one_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept"
    write_arrays(folder, {"a": np.arange(3)}, {"version": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_arrays(folder, {"a": np.arange(4)}, {"version": 2})
    assert read_about(folder) == {"version": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert read_about(tmp_path / "nothing") is None
    (folder / "about.json").write_text("[1]")
    assert read_about(folder) is None
