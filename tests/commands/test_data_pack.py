"""`sslam data pack`: shards that stand for the folder."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from data_modules import ClassFolderDataModule, FolderDataModule
from sslam import packing
from sslam.__main__ import main
from sslam.audio import decode_audio
from sslam.audio_files import stated_size
from sslam.packed_audio import packed_clip
from tests.commands.conftest import exit_code
from tests.commands.listed_sounds import clips, files_of, run, sounds, write_25_bad_files
from tests.data_modules.official_layouts import write_tone_classes

__all__ = ["sounds"]


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
