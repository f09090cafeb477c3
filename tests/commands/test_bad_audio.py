"""Every command goes on beside more than fifty kinds of bad files, uses the good ones and names the bad ones."""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslam.audio_files import as_text
from tests import bad_audio
from tests.embedding.conftest import pre_trained
from tests.separation.conftest import checkpoint

__all__ = ["checkpoint", "pre_trained"]

GOOD = [
    f"{kind}{number}.{extension}"
    for kind in ("dog", "rain")
    for number, extension in enumerate(["wav", "flac", "ogg"] * 2)
]

NUM_USED = len(GOOD) + len(bad_audio.REPAIRED) + len(bad_audio.UNKNOWN_LENGTH)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Twelve good files of 1 to 1.5 s in the folders of two classes, and the bad ones in the first."""
    root = tmp_path / "recordings"
    for number, name in enumerate(GOOD):
        folder = root / name[:-5]
        folder.mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(number).standard_normal(16_000 + 700 * number)
        soundfile.write(folder / name, noise, 16_000)
    bad_audio.write_bad_audio(root / "dog")
    return root


def run(args: Sequence[object], folder: Path) -> str:
    """What a command says, which ends well and within two minutes, and takes the terminal for no toy."""
    command = [sys.executable, "-m", "sslam", *map(str, args)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\x1b[31m" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def check_named(path: Path, in_parts: bool = False) -> None:
    """Every bad file is in the list, each once, and no good one; a part of a truncated file may be whole."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [(Path(row["path"]).name, row["action"]) for row in rows]
    expected = [(name, "skipped") for name in bad_audio.SKIPPED] + [(name, "repaired") for name in bad_audio.REPAIRED]
    wanted = [(as_text(name), action) for name, action in expected]
    missing = {*wanted} - {*found}
    assert {(name, action) for name, action in missing if not in_parts or action == "skipped"} == set()
    assert {*found} - {*wanted} == set()
    assert len(found) == len(wanted) - len(missing)
    assert len(bad_audio.SKIPPED) + len(bad_audio.REPAIRED) > 50


@pytest.mark.slow
def test_embed__fifty_kinds_of_bad_files(recordings: Path, pre_trained: Path, tmp_path: Path) -> None:
    args = ["embed", recordings, "--checkpoint", pre_trained, "--output", "all.npz", "--device", "cpu"]
    said = run([*args, "--num_workers", 2], tmp_path)
    check_named(tmp_path / "all.npz.bad_files.csv")
    assert f"{NUM_USED} files embedded" in said
    with np.load(tmp_path / "all.npz") as arrays:
        assert set(GOOD) <= {Path(name).name for name in arrays["files"]}
        assert np.isfinite(arrays["embeddings"]).all()


@pytest.mark.slow
def test_separate__fifty_kinds_of_bad_files(recordings: Path, checkpoint: Path, tmp_path: Path) -> None:
    run(["separate", recordings, "--checkpoint", checkpoint, "--output", "sources", "--device", "cpu"], tmp_path)
    check_named(tmp_path / "sources/bad_files.csv")
    sources = list((tmp_path / "sources").glob("**/*_source1.wav"))
    assert len(sources) == NUM_USED
    assert all(np.isfinite(soundfile.read(path)[0]).all() for path in sources)


TRAININGS = {
    "pretrain": ["--config", "experiments/overrides/smoke.yaml"],
    "separate": ["--config", "experiments/overrides/smoke_separation.yaml"],
    "contrastive": ["--config", "experiments/overrides/smoke_contrastive.yaml", "--checkpoint.monitor", "null"],
}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", TRAININGS)
def test_fit__fifty_kinds_of_bad_files(experiment: str, recordings: Path, checkpoint: Path, tmp_path: Path) -> None:
    args = ["fit", "--config", f"experiments/{experiment}.yaml", *TRAININGS[experiment]]
    args += ["--config", "experiments/data/folder.yaml", "--data.root", str(recordings), "--data.clip_seconds", "1"]
    args += ["--data.batch_size", "2", "--data.num_workers", "2", "--trainer.accelerator", "cpu"]
    args += ["--trainer.max_steps", "80", "--trainer.callbacks", "[]", "--run_id", "one"]
    if experiment == "contrastive":
        args += ["--model.processors.folder", str(checkpoint.parent), "--model.processors.files", "[last.ckpt]"]
    run(args, tmp_path)
    folder = tmp_path / f"runs/{experiment}/one"
    check_named(folder / "bad_files.csv", in_parts=True)
    with (folder / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses
    assert np.isfinite(losses).all()


@pytest.mark.slow
def test_evaluate__fifty_kinds_of_bad_files(recordings: Path, pre_trained: Path, tmp_path: Path) -> None:
    args = ["evaluate", "--checkpoint", pre_trained, "--task", "class_folder", "--method", "query_by_example"]
    args += ["--no_baselines", "--data.root", recordings, "--data.num_workers", 2, "--run_id", "one"]
    run([*args, "--trainer.accelerator", "cpu"], tmp_path)
    (folder,) = (path for path in (tmp_path / "runs/evaluation/one").glob("*/*") if path.is_dir())
    check_named(folder / "bad_files.csv", in_parts=True)
    record = json.loads((folder / "results-test.json").read_text())
    assert record["data"]["num_clips"] == NUM_USED
