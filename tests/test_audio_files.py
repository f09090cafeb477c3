"""Which audio files are found below folders, and the list of bad ones."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from sslam.audio import FileProblem
from sslam.audio_files import add_bad_files, as_text, audio_files_below, find_audio_files
from sslam.errors import UsageError


def test_audio_files_below__whole_tree_sorted_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b/x.FLAC", "a.wav", "b/c/y.mp3", "z.Ogg", ".hidden.wav", ".cache/h.wav", "notes.txt", "b/wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(audio_files_below(tmp_path)) == ["a.wav", "b/c/y.mp3", "b/x.FLAC", "z.Ogg"]


def test_audio_files_below__links_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("root/a.wav", "root/sub/b.wav", "root/sub/deep/c.wav", "outside/d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (root / "sub" / "up").symlink_to(root, target_is_directory=True)  # a loop
    (root / "sub" / "deep" / "self").symlink_to(".", target_is_directory=True)
    (root / "again").symlink_to(root / "sub", target_is_directory=True)  # sorts before "sub", which is preferred
    (root / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "link.wav").symlink_to(root / "a.wav")
    (root / "broken").symlink_to(root / "nowhere")
    assert sorted(audio_files_below(root)) == ["a.wav", "link.wav", "linked/d.wav", "sub/b.wav", "sub/deep/c.wav"]


def test_audio_files_below__a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.wav").touch()
    scandir = os.scandir

    def refuse(folder: str) -> Any:  # permissions would not keep root out
        if folder.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"Cannot list the folder '.*locked' \(Permission denied\)"):
        assert sorted(audio_files_below(tmp_path)) == ["a.wav"]


def test_find_audio_files__of_folders_and_files_with_their_names(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("root/b.wav", "root/sub/a.flac", "odd.snd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (root / "sub" / "back").symlink_to(root)
    (root / "again").symlink_to(root / "sub")  # a folder has its own path, not a link's
    found = find_audio_files([str(root), str(root / "b.wav"), str(tmp_path / "odd.snd")])
    assert list(found.items()) == [
        (str(tmp_path / "odd.snd"), "odd.snd"),
        (str(root / "b.wav"), "b.wav"),
        (str(root / "sub/a.flac"), "sub/a.flac"),
    ]


def test_find_audio_files__refuses_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"No audio file in .*empty: looked for \.wav, \.flac, \.mp3, \.ogg"):
        find_audio_files([str(tmp_path / "empty")])
    with pytest.raises(UsageError, match="There is no file or folder nowhere. Give audio files"):
        find_audio_files([str(tmp_path), "nowhere"])


def test_add_bad_files__one_list_with_one_header_and_names_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "run" / "bad_files.csv"
    add_bad_files(path, [])
    assert not path.parent.exists()
    odd = os.fsdecode(b"caf\xe9.wav")
    add_bad_files(path, [FileProblem(odd, "silent", "skipped")])
    add_bad_files(path, [FileProblem('quo"te, \n.wav', "truncated", "repaired")])
    with path.open(newline="", encoding="utf-8") as stream:
        assert list(csv.DictReader(stream)) == [
            {"path": as_text(odd), "reason": "silent", "action": "skipped"},
            {"path": 'quo"te, \n.wav', "reason": "truncated", "action": "repaired"},
        ]
