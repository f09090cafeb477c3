"""`sslam data index`: manifests of folders and official lists, and the index of shards made elsewhere."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data_modules import FolderDataModule, ManifestDataModule
from tests.commands.listed_sounds import clips, files_of, run, sounds
from tests.data_modules.official_layouts import RATE

__all__ = ["sounds"]


def test_data_index__of_a_folder_is_a_manifest_to_train_from(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sounds / "broken.wav").write_text("no audio")
    output = tmp_path / "all.tsv"
    assert run("index", sounds, "--output", output) == 0
    assert "18 clips" in (said := capsys.readouterr().out)
    assert "0 listed files are missing, 1 left out" in said
    root, *lines = output.read_text().splitlines()
    assert root == str(sounds)
    for line in lines:
        name, length = line.split("\t")
        assert int(length) == soundfile.info(sounds / name).frames
    (sounds / "broken.wav").unlink()
    assert clips(FolderDataModule(str(output))) == clips(FolderDataModule(str(sounds)))
    assert clips(ManifestDataModule(str(output))) == clips(FolderDataModule(str(sounds)))
    assert not list(tmp_path.glob("*.unfinished"))


def test_data_index__of_official_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for name in ("Yaaaaaaaaaaa.wav", "bbbbbbbbbbb_30000.wav", "1-137-A-32.wav"):
        soundfile.write(audio / name, np.full(800, 0.1), RATE)
    segments = tmp_path / "eval_segments.csv"
    segments.write_text(
        '# Segments csv\n# num_ytids=3\n# YTID, start_seconds, end_seconds, positive_labels\n'
        'aaaaaaaaaaa, 30.000, 40.000, "/m/09x0r"\nbbbbbbbbbbb, 30.000, 40.000, "/m/09x0r"\n'
        'ccccccccccc, 0.000, 10.000, "/m/09x0r"\n'
    )  # fmt: skip
    assert run("index", segments, "--audio", audio, "--output", tmp_path / "eval.tsv") == 0
    assert "1 listed files are missing" in capsys.readouterr().out
    lines = (tmp_path / "eval.tsv").read_text().splitlines()
    assert lines == [str(audio), "Yaaaaaaaaaaa.wav\t800", "bbbbbbbbbbb_30000.wav\t800"]
    table = tmp_path / "esc50.csv"
    table.write_text("filename,fold,target\n1-137-A-32.wav,1,32\nmissing.wav,1,3\n")
    assert run("index", table, "--audio", audio, "--output", tmp_path / "esc.tsv") == 0
    assert (tmp_path / "esc.tsv").read_text().splitlines() == [str(audio), "1-137-A-32.wav\t800"]


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ("nowhere", ["--output", "x.tsv"], "There is no file or folder"),
        ("empty", ["--output", "x.tsv"], "No audio of"),
        ("empty", [], "--output is needed"),
        ("no_names.csv", ["--output", "x.tsv"], "none of the columns file, filename"),
        ("sounds", ["--output", "nowhere/x.tsv"], "There is no folder"),
    ],
)
def test_data_index__what_cannot_be_listed(
    sounds: Path, tmp_path: Path, source: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_names.csv").write_text("a,b\n1,2\n")
    options = [more[0], tmp_path / more[1]] if more else []
    assert run("index", tmp_path / source, *options) == 2
    assert message in capsys.readouterr().err


# ---- shards made elsewhere ------------------------------------------------------------------------------------------


def write_tar(path: Path, members: dict[str, bytes], **attributes: Any) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in attributes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(data))


def test_data_index__of_shards_made_elsewhere(sounds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    paths = sorted(sounds.rglob("*.flac"))
    for shard, part in enumerate((paths[:10], paths[10:])):
        write_tar(folder / f"{shard}.tar", {f"./{path.relative_to(sounds)}": path.read_bytes() for path in part})
    with pytest.raises(ValueError, match="Make the index of its shards: sslam data index"):
        FolderDataModule(str(folder)).setup("fit")
    assert run("index", folder) == 0
    assert clips(FolderDataModule(str(folder))) == clips(FolderDataModule(str(sounds)))
    ours = tmp_path / "ours"
    assert run("pack", sounds, "--output", ours) == 0
    index = files_of(ours / "index")
    assert run("index", ours) == 0
    assert files_of(ours / "index") == index


@pytest.mark.parametrize(
    "name",
    ["../outside.flac", "/etc/outside.flac", "a/../../b.flac", "..\\b.flac", "a//../b.flac", "x" * 5000 + ".flac"],
)
def test_data_index__a_hostile_member_name_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_tar(folder / "0.tar", {"good.flac": b"", name: b""})
    assert run("index", folder) == 2
    assert "does not stay in its folder, or is no plain relative path" in capsys.readouterr().err
    about = json.dumps({"name": name}).encode()
    write_tar(folder / "0.tar", {"0.flac": b"", "0.json": about})
    assert run("index", folder) == 2
    assert not (folder / "index").exists()


def test_data_index__links_devices_and_other_files_are_refused(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_tar(folder / "0.tar", {"a.flac": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    assert run("index", folder) == 2
    assert "is a link or a device" in capsys.readouterr().err
    (folder / "0.tar").write_bytes(b"no archive" * 100)
    assert run("index", folder) == 2
    assert "is no plain tar archive" in capsys.readouterr().err
    assert run("pack", sounds, "--output", tmp_path / "ours") == 0
    about = tmp_path / "ours" / "index" / "about.json"
    about.write_text(about.read_text().replace("shard-000000.tar", "../../shard.tar"))
    with pytest.raises(ValueError, match="does not stay in its folder"):
        FolderDataModule(str(tmp_path / "ours")).setup("fit")
