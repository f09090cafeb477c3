"""Runs of classifiers on the command line: tested and gone on with after the file that they began with is gone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sslam.__main__ import main

RECIPE = [
    *("--config", "experiments/evaluation/methods/fine_tune.yaml"),
    *("--config", "experiments/evaluation/tasks/soundscapes.yaml"),
    *("--config", "experiments/overrides/two_steps.yaml"),
    *("--data.num_train_scenes", "4", "--data.num_test_scenes", "3", "--model.frontend.num_frames", "128"),
    *("--model.initial_checkpoint", "my pre-training.ckpt"),
]
RUNS = Path("runs/fine_tune")


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoint of a tiny pre-training, with a space in its relative path."""
    monkeypatch.chdir(tmp_path)
    smoke = ["--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"]
    assert main(["fit", *smoke, "--trainer.callbacks", "[]", "--run_id", "first"]) == 0
    return shutil.copy(Path("runs/pretrain/first/checkpoints/last.ckpt"), Path("my pre-training.ckpt"))


def record_of(run_id: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RUNS / run_id / "results-test.json").read_text())
    return record


@pytest.mark.parametrize("weights", ["student", "teacher", "random"])
def test_fine_tuned__does_not_need_the_file_it_began_with(weights: str, pretrained: Path) -> None:
    assert main(["fit", *RECIPE, "--model.weights", weights, "--run_id", "one", "--seed_everything", "5"]) == 0
    pretrained.unlink()
    first = record_of("one")
    assert first["checkpoint"]["weights"] == weights
    assert first["checkpoint"]["path"] == "my pre-training.ckpt"
    last = str(RUNS / "one/checkpoints/last.ckpt")
    assert main(["test", *RECIPE, "--model.weights", weights, "--ckpt_path", last, "--run_id", "tested"]) == 0
    tested = record_of("tested")
    for entry in ("metrics", "checkpoint", "epoch", "step", "seed", "learning_rate"):
        assert tested[entry] == first[entry], entry
    more = ["--trainer.max_steps", "4", "--run_id", "one", "--ckpt_path", "last"]
    assert main(["fit", *RECIPE, "--model.weights", weights, *more]) == 0
    assert record_of("one")["step"] == 4
    assert record_of("one")["checkpoint"] == first["checkpoint"]


def test_test__says_that_a_head_has_not_learnt(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *RECIPE]) == 0
    warning = "sslam: The classifier's head has random weights: no ckpt_path was given. Give it with --ckpt_path.\n"
    assert warning in capsys.readouterr().err
