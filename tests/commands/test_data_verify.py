"""`sslam data verify`: every bad file by its kind."""

import csv
from pathlib import Path
from typing import Any

import pytest

from sslam.audio import decode_audio
from tests.commands.listed_sounds import run, sounds, write_25_bad_files

__all__ = ["sounds"]


def test_data_verify__names_25_bad_files_by_kind(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sounds / "bad").mkdir()
    kinds = write_25_bad_files(sounds / "bad")
    assert len(kinds) == 25
    assert run("verify", sounds, "--output", tmp_path / "bad.csv") == 0
    with (tmp_path / "bad.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["path"]).name: row["kind"] for row in rows} == kinds
    assert all(row["reason"] and row["action"] in ("skipped", "repaired") for row in rows)
    said = capsys.readouterr().out
    assert "43 files: 18 good, 23 bad and skipped, 2 damaged and repaired" in said
    for kind in set(kinds.values()):
        assert f" {kind}: " in said


def test_data_verify__goes_on_after_an_interruption(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sslam.commands.data.chunks.in_chunks.__defaults__", (4, lambda _: True))
    decoded: list[str] = []

    def decode(path: str) -> Any:
        decoded.append(path)
        if len(decoded) == 11:
            raise KeyboardInterrupt
        return decode_audio(path)

    output = tmp_path / "bad.csv"
    with monkeypatch.context() as patch:
        patch.setattr("sslam.audio.decode_audio", decode)
        assert run("verify", sounds, "--output", output, "--num_workers", 1) == 130
        assert capsys.readouterr().err.endswith("the same command goes on from there.\n")
        assert not output.exists()
        journal = Path(f"{output}.unfinished")
        with journal.open("a") as stream:
            stream.write('{"chunk": 2, "prob')  # what a kill leaves of a line
        changed = sorted(sounds.rglob("*.flac"))[0]
        changed.write_bytes(b"")
        before = len(decoded)
        assert run("verify", sounds, "--output", output, "--num_workers", 1) == 0
    assert "4 of 18 files are finished already" in capsys.readouterr().err
    assert len(decoded) - before == 14
    assert [row["kind"] for row in csv.DictReader(output.open())] == ["empty"]
    assert not journal.exists()
