"""`sslam data index | verify | pack`: lists, bad files by kind, and shards that stand for the folder."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from data_modules import ClassFolderDataModule, FolderDataModule, ManifestDataModule
from sslam import packing
from sslam.__main__ import main
from sslam.audio import decode_audio
from sslam.audio_files import stated_size
from sslam.packed_audio import packed_clip
from tests.commands.conftest import exit_code
from tests.data_modules.official_layouts import RATE, write_tone_classes


def run(*args: object) -> int:
    return exit_code(main, ["data", *args])


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return write_tone_classes(tmp_path / "sounds")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- index ----------------------------------------------------------------------------------------------------------


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


# ---- verify ---------------------------------------------------------------------------------------------------------


def write_25_bad_files(folder: Path) -> dict[str, str]:
    """A file of every way in which downloads, disks and tools have spoilt audio; its name, and the kind it is of."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 3 * RATE).astype(np.float32)

    def audio(name: str, samples: Any = noise, **options: Any) -> Path:
        soundfile.write(folder / name, samples, RATE, **options)
        return folder / name

    def cut(name: str) -> None:
        path = audio(name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def overwritten(name: str, start: int, data: bytes) -> None:
        path = audio(name)
        content = bytearray(path.read_bytes())
        content[start : start + len(data)] = data
        path.write_bytes(content)

    kinds = {}
    for name in ("cut.wav", "cut.flac"):
        cut(name)
        kinds[name] = "truncated"
    for name, content in {
        "page.mp3": b"<!DOCTYPE html><html><title>404</title></html>" * 50,
        "text.wav": b"RIFF is what this is about\n" * 20,
        "random.flac": np.random.default_rng(2).bytes(5000),
        "zeros.ogg": bytes(20_000),
        "image.wav": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "archive.mp3": b"PK\x03\x04" + bytes(500),
        "head.flac": b"fLaC",
        "head.wav": b"RIFF",
    }.items():
        (folder / name).write_bytes(content)
        kinds[name] = "unreadable"
    for name in ("empty.wav", "empty.mp3", "empty.flac"):
        (folder / name).touch()
        kinds[name] = "empty"
    audio("header_alone.wav", np.zeros(0))
    kinds["header_alone.wav"] = "no samples"
    for name, samples in {"silent.wav": np.zeros(RATE), "almost_silent.wav": np.full(RATE, 1e-8)}.items():
        audio(name, samples, subtype="FLOAT")
        kinds[name] = "silent"
    for name, value in {"nan.wav": np.nan, "infinite.wav": np.inf}.items():
        audio(name, np.where(np.arange(len(noise)) == 999, value, noise), subtype="FLOAT")
        kinds[name] = "not finite"
    audio("loud.wav", noise * 1e6, subtype="FLOAT")
    kinds["loud.wav"] = "too loud"
    audio("short.wav", noise[:10])
    audio("one_sample.flac", noise[:1])
    kinds |= {"short.wav": "too short", "one_sample.flac": "too short"}
    overwritten("rate_1.wav", 24, (1).to_bytes(4, "little"))
    overwritten("rate_high.wav", 24, (2**31 - 1).to_bytes(4, "little"))
    kinds |= {"rate_1.wav": "impossible sample rate", "rate_high.wav": "impossible sample rate"}
    (folder / "nowhere.wav").symlink_to(folder / "gone.wav")
    kinds["nowhere.wav"] = "missing"
    os.mkfifo(folder / "pipe.wav")
    kinds["pipe.wav"] = "no regular file"
    return kinds


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
    monkeypatch.setattr("sslam.commands.data.lists.CLIPS_PER_CHUNK", 4)
    monkeypatch.setattr("sslam.commands.data.lists._chunks.__defaults__", (4, lambda _: True))
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


# ---- pack -----------------------------------------------------------------------------------------------------------


def clips(data: Any, epochs: int = 2, **settings: Any) -> list[list[Any]]:
    """What training is given."""
    for name, value in {"batch_size": 3, "num_workers": 0, "clip_seconds": 0.3, **settings}.items():
        setattr(data, name, value)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        batches += [batch["waveform"].tolist() for batch in loader]
    return batches


def test_data_pack__shards_stand_for_the_folder(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    assert run("pack", sounds, "--output", output, "--clips_per_shard", 5) == 0
    assert "18 files packed into 4 shards" in capsys.readouterr().out
    assert clips(FolderDataModule(str(output))) == clips(FolderDataModule(str(sounds)))
    assert clips(FolderDataModule(str(output)), num_workers=2) == clips(FolderDataModule(str(sounds)))
    for path in sounds.rglob("*.flac"):
        name = path.relative_to(sounds)
        assert stated_size(str(output / name)) == stated_size(str(path))
        assert np.array_equal(decode_audio(output / name).waveform, decode_audio(path).waveform)
        part = {"start_seconds": 0.1, "num_seconds": 0.05}
        assert np.array_equal(decode_audio(output / name, **part).waveform, decode_audio(path, **part).waveform)
    # With labels, and in the commands.
    folders = [ClassFolderDataModule(str(folder), name="x") for folder in (sounds, output)]
    assert clips(folders[0]) == clips(folders[1])
    assert folders[0].class_names == folders[1].class_names
    assert run("stats", output) == 0


def test_data_pack__what_is_not_there_is_no_file(sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    assert run("pack", sounds, "--output", output) == 0
    assert packed_clip(str(output / "nothing.flac")) is None
    assert packed_clip(str(tmp_path / "nothing.flac")) is None
    with pytest.raises(ValueError, match="no such file"):
        decode_audio(output / "nothing.flac")


def test_data_pack__webdataset_reads_the_shards(sounds: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    output = tmp_path / "shards"
    assert run("pack", sounds, "--output", output, "--clips_per_shard", 5) == 0
    samples = list(webdataset.WebDataset([str(path) for path in sorted(output.glob("*.tar"))], shardshuffle=False))
    names = sorted(str(path.relative_to(sounds)) for path in sounds.rglob("*.flac"))
    abouts = [json.loads(sample["json"]) for sample in samples]
    assert [about["name"] for about in abouts] == names
    for sample, about in zip(samples, abouts, strict=True):
        waveform, rate = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        assert (rate, len(waveform)) == (16_000, about["num_samples"])
        assert np.array_equal(waveform, decode_audio(sounds / about["name"]).waveform)


def test_data_pack__other_rates_and_channels_within_half_a_step(tmp_path: Path) -> None:
    folder, output = tmp_path / "sounds", tmp_path / "shards"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, rate in enumerate((8_000, 22_050, 44_100, 48_000)):
        soundfile.write(folder / f"{number}.wav", rng.uniform(-0.5, 0.5, (rate, 2)), rate, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", rng.uniform(-3, 3, 16_000), 16_000, subtype="FLOAT")
    assert run("pack", folder, "--output", output) == 0
    for number in range(4):
        packed, plain = (decode_audio(root / f"{number}.wav").waveform for root in (output, folder))
        np.testing.assert_allclose(packed, plain, rtol=0, atol=2.0**-16 + 1e-9)
    assert float(np.abs(decode_audio(output / "loud.wav").waveform).max()) <= 1
    assert "clipped: " in (output / "bad_files.csv").read_text()


def test_data_pack__bad_files_are_left_out_and_listed(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sounds / "bad").mkdir()
    kinds = write_25_bad_files(sounds / "bad")
    output = tmp_path / "shards"
    assert run("pack", sounds, "--output", output, "--clips_per_shard", 7) == 0
    assert "23 bad files skipped, 2 repaired" in capsys.readouterr().out
    with (output / "bad_files.csv").open() as file:
        assert {Path(row["path"]).name for row in csv.DictReader(file)} == set(kinds)
    data = FolderDataModule(str(output), num_workers=0)
    data.setup("fit")
    assert data.train_set is not None
    assert len(data.train_set) == 20  # type: ignore[arg-type]


def test_data_pack__interrupted_and_resumed_gives_the_same_bytes(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, output = tmp_path / "straight", tmp_path / "shards"
    assert run("pack", sounds, "--output", straight, "--clips_per_shard", 4, "--num_workers", 3) == 0
    capsys.readouterr()
    packed: list[str] = []

    def as_flac(path: str) -> Any:
        packed.append(path)
        if len(packed) == 10:
            raise KeyboardInterrupt
        return original(path)

    original = packing.as_flac
    with monkeypatch.context() as patch:
        patch.setattr(packing, "as_flac", as_flac)
        assert run("pack", sounds, "--output", output, "--clips_per_shard", 4, "--num_workers", 1) == 130
    assert sorted(path.name for path in output.glob("*.tar")) == ["shard-000000.tar", "shard-000001.tar"]
    assert not (output / "index").exists()
    (output / "shard-000000.tar").unlink()  # somebody has cleared up
    assert run("pack", sounds, "--output", output, "--clips_per_shard", 4) == 0
    assert "4 of 18 files are finished already" in capsys.readouterr().err
    tars = {name: data for name, data in files_of(straight).items() if name.endswith((".tar", ".npy"))}
    assert tars == {name: data for name, data in files_of(output).items() if name.endswith((".tar", ".npy"))}
    assert len(tars) == 5 + 5


@pytest.mark.slow
def test_data_pack__killed_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    sounds = write_tone_classes(tmp_path / "sounds", 60)
    straight, output = tmp_path / "straight", tmp_path / "shards"
    options = ["--clips_per_shard", "10", "--num_workers", "1"]
    assert run("pack", sounds, "--output", straight, *options) == 0
    command = [sys.executable, "-m", "sslam", "data", "pack", str(sounds), "--output", str(output), *options]
    process = subprocess.Popen(command)
    while process.poll() is None and len(list(output.glob("*.tar"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "index").exists()
    assert run("pack", sounds, "--output", output, *options) == 0
    wanted = {name: data for name, data in files_of(straight).items() if name != "packing.jsonl"}
    assert wanted == {name: data for name, data in files_of(output).items() if name != "packing.jsonl"}


def test_data_pack__other_work_is_not_written_over(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    assert run("pack", sounds, "--output", output) == 0
    before = files_of(output)
    assert run("pack", sounds, "--output", output, "--clips_per_shard", 3) == 2
    assert "begun with other values of clips_per_shard" in capsys.readouterr().err
    assert run("pack", sounds, "--output", sounds / "inside") == 2
    assert "whose audio is packed" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    assert run("pack", sounds, "--output", tmp_path / "mine") == 2
    assert "holds other things than shards" in capsys.readouterr().err
    assert files_of(output) == before
    assert run("pack", sounds, "--output", output) == 0
    assert {name: data for name, data in files_of(output).items() if name.endswith(".tar")} == {
        name: data for name, data in before.items() if name.endswith(".tar")
    }


# ---- shards of others -----------------------------------------------------------------------------------------------


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


@pytest.mark.slow
def test_data_pack__training_from_shards_gives_the_same_weights(sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    assert run("pack", sounds, "--output", output, "--clips_per_shard", 5) == 0
    weights = []
    for root in (sounds, output):
        folder = tmp_path / f"runs-{root.name}"
        args = [
            "fit", "--config", "experiments/pretrain.yaml", "--config", "experiments/data/folder.yaml",
            "--config", "experiments/overrides/smoke.yaml", "--data.root", root, "--data.num_workers", 0,
            "--data.batch_size", 2, "--trainer.default_root_dir", folder, "--run_id", "one",
        ]  # fmt: skip
        assert exit_code(main, args) == 0
        weights.append(torch.load(next(folder.rglob("last.ckpt")), weights_only=True)["state_dict"])
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
