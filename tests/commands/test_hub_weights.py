"""Published weights of the Hub in `sslam evaluate` and `sslam fit`, from a made-up cache without a network."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from huggingface_hub import constants

from sslam.__main__ import main
from sslam.commands import evaluate
from tests.checkpoints.hub_files import COMMIT, put_into_cache, save_hub
from tests.checkpoints.published_files import fine_tuned, pre_trained
from tests.commands.test_evaluate import run_here

ROOT = Path(__file__).resolve().parents[2]
TABLE = re.findall(
    r"^\| (EAT|SSLAM)\b.*(hf://[\w./-]+)\b.*$", (ROOT / "experiments/README.md").read_text(encoding="utf-8"), re.M
)
COMMAND = "sslam evaluate --checkpoint ADDRESS --task esc50 --method linear_probe --data.root /path/to/esc50"


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    """Three classes, one clip of each in every fold, 5 s long."""
    rows = []
    (tmp_path / "esc50/audio").mkdir(parents=True)
    (tmp_path / "esc50/meta").mkdir()
    for fold in range(1, 6):
        for clip, name in enumerate(("dog", "rooster", "pig")):
            rows.append(f"{fold}-{clip}-A-{clip}.wav,{fold},{clip},{name},False,{clip},A")
            noise = np.random.default_rng(3 * fold + clip).normal(scale=0.1, size=80_000)
            soundfile.write(tmp_path / f"esc50/audio/{fold}-{clip}-A-{clip}.wav", noise, 16_000)
    header = "filename,fold,target,category,esc10,src_file,take"
    (tmp_path / "esc50/meta/esc50.csv").write_text("\n".join([header, *rows]))
    return tmp_path / "esc50"


def made_cache(path: Path, repository: str, **changes: Any) -> Path:
    model = fine_tuned() if "finetune" in repository.lower() else pre_trained()
    put_into_cache(path, repository, save_hub(path / "made" / repository, model, **changes))
    return path


@pytest.mark.parametrize("address", [address for _, address in TABLE])
def test_readme__the_command_evaluates_all_weights_of_the_table(
    address: str, esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COMMAND in (ROOT / "experiments/README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(made_cache(tmp_path / "hub", address.removeprefix("hf://"))))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(evaluate, "run_child", run_here)
    _, name, *args = COMMAND.replace("ADDRESS", address).replace("/path/to/esc50", str(esc50)).split()
    small = [
        "--no_baselines",
        "--folds",
        "1",
        "--data.batch_size",
        "4",
        "--data.num_workers",
        "0",
        "--trainer.accelerator",
        "cpu",
    ]
    assert main([name, *args, *small, "--model.epochs", "1", "--model.learning_rates", "[1e-3]", "--run_id", "x"]) == 0
    (record,) = Path("runs/evaluation/x").glob("*/*/results-test.json")
    facts = json.loads(record.read_text())["checkpoint"]
    assert facts["revision"] == COMMIT
    assert facts["path"] == f"{address}@{COMMIT}/model.safetensors"
    assert facts["label"] == address.rpartition("/")[2]


def test_readme__the_table_has_all_six() -> None:
    assert len(TABLE) == len(set(TABLE)) == 6


@pytest.mark.slow
def test_evaluate__takes_the_front_end_of_published_weights_in_processes_of_their_own(
    esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The switches of huggingface_hub are those of the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(made_cache(tmp_path / "hub", "owner/eat")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-m", "sslam", "evaluate", "--checkpoint", "hf://owner/eat", "--task", "esc50"]
    more = ["--method", "query_by_example", "--data.root", str(esc50), "--data.num_workers", "0", "--run_id", "x"]
    more += ["--no_baselines"]
    done = subprocess.run(
        [*command, *more, "--trainer.accelerator", "cpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = Path("runs/evaluation/x").glob("*/*/results-test.json")
    assert json.loads(record.read_text())["checkpoint"]["revision"] == COMMIT


def test_fit__begins_the_second_stage_with_weights_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put_into_cache(tmp_path / "hub", "owner/eat", save_hub(tmp_path / "eat", pre_trained(32, 2), num_heads=2))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    files = ["experiments/pretrain.yaml", "experiments/overrides/stage_2_only.yaml", "experiments/overrides/smoke.yaml"]
    args = [word for file in files for word in ("--config", file)]
    with pytest.warns(UserWarning, match="the decoder is new, with random weights, and the teacher is a copy"):
        assert main(["fit", *args, "--trainer.callbacks", "[]", "--model.initial_checkpoint", "hf://owner/eat"]) == 0


def test_fit__a_wrong_address_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    args = ["--config", "experiments/evaluation/quickstart.yaml", "--trainer.accelerator", "cpu"]
    assert main(["fit", *args, "--model.initial_checkpoint", "hf://owner/eat"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sslam fit:")]
    assert said == [
        "sslam fit: hf://owner/eat is not in the cache, and HF_HUB_OFFLINE is set. Unset it, or download it "
        "on a machine with a network."
    ]
