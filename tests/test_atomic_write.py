"""Files are there whole, or as they were."""

from pathlib import Path

import pytest

from sslam.atomic_write import write_whole


def test_write_whole__replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    write_whole(path, lambda partial: partial.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_write_whole__an_error_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def write(partial: Path) -> None:
        assert partial.parent == tmp_path
        assert partial.name.endswith(".partial")
        partial.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_whole(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_whole__what_numpy_does_not_say_of_a_full_disk(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        raise OSError("16000 requested and 968 written")

    with pytest.raises(OSError, match="No space left on device: '.*out.npy'"):
        write_whole(tmp_path / "out.npy", write)
