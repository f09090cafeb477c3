"""`sslam evaluate`: which runs it makes, what it goes on with, and a whole evaluation of a small checkpoint."""

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sslam.__main__ import main
from sslam.commands import evaluate
from sslam.commands.evaluate import Weights, all_runs, build_parser, folds_of, subcommand_of, weights_of

ESC50 = "experiments/evaluation/esc50_linear_probe.yaml"
CLASSES = ("dog", "rooster", "pig")
SOUNDSCAPES = "experiments/evaluation/soundscapes_fine_tune.yaml"
RETRIEVAL = "experiments/evaluation/esc50_query_by_example.yaml"
LOG_MEL = "experiments/evaluation/baselines/log_mel.yaml"


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a tiny pre-training."""
    monkeypatch.chdir(tmp_path)
    smoke = ["--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"]
    assert main(["fit", *smoke, "--trainer.callbacks", "[]", "--run_id", "first"]) == 0
    return Path("runs/pretrain/first/checkpoints/last.ckpt")


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    rows = []
    for fold in range(1, 6):
        for clip in range(3):
            name = f"{fold}-{clip}-A-{clip}.wav"
            rows.append(f"{name},{fold},{clip},{CLASSES[clip]},False,{clip},A")
            noise = np.random.default_rng(3 * fold + clip).normal(scale=0.1, size=22050)
            (tmp_path / "esc50/audio").mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "esc50/audio" / name, noise, 22050)
    (tmp_path / "esc50/meta").mkdir()
    header = "filename,fold,target,category,esc10,src_file,take"
    (tmp_path / "esc50/meta/esc50.csv").write_text("\n".join([header, *rows]))
    return tmp_path / "esc50"


def small(esc50: Path) -> list[str]:
    return [
        *("--data.root", str(esc50), "--data.batch_size", "2", "--data.num_workers", "0"),
        *("--data.clip_seconds", "1.28", "--model.frontend.num_frames", "128", "--trainer.accelerator", "cpu"),
        *("--model.epochs", "2", "--model.learning_rates", "[1e-3]"),
    ]


def run_here(command: list[str], stdout: Any, **_: Any) -> Any:
    """As a process would, but faster."""
    with contextlib.redirect_stderr(stdout), contextlib.redirect_stdout(stdout):
        code = main(command[3:])
    return subprocess.CompletedProcess(command, code)


def options(*args: str) -> Any:
    return build_parser().parse_args([*args, "--recipe", ESC50])


def test_folds_of__come_from_the_data_module() -> None:
    from sslam.commands.fitting.config_files import locate

    assert folds_of(locate(ESC50)) == (1, 2, 3, 4, 5)
    assert folds_of(locate(SOUNDSCAPES)) == (None,)
    assert folds_of(locate(RETRIEVAL)) == (None,)  # it says itself that nothing is held out
    assert [subcommand_of(locate(recipe)) for recipe in (ESC50, SOUNDSCAPES, RETRIEVAL)] == ["fit", "fit", "test"]


def test_weights_of__names_and_random_weights(tmp_path: Path) -> None:
    for name in ("a.ckpt", "b=c.ckpt"):
        (tmp_path / name).touch()
    rows = weights_of(options("--checkpoint", f"stage 1={tmp_path / 'a.ckpt'}", "--random"))
    assert rows == [
        Weights("random weights", str(tmp_path / "a.ckpt"), random=True),
        Weights("stage 1", str(tmp_path / "a.ckpt")),
    ]
    (row,) = weights_of(options("--checkpoint", str(tmp_path / "b=c.ckpt")))
    assert row == Weights("b=c", str(tmp_path / "b=c.ckpt"))


def test_all_runs__recipes_x_weights_x_folds(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    given = build_parser().parse_args(
        ["--checkpoint", str(tmp_path / "a.ckpt"), "--random", "--recipe", ESC50, "--recipe", SOUNDSCAPES]
    )
    runs = list(all_runs(given, tmp_path / "evaluation"))
    assert len(runs) == 2 * 5 + 2
    assert len({run.folder for run in runs}) == len(runs)
    assert runs[0].folder == tmp_path / "evaluation/esc50_linear_probe/random_weights-fold1"
    command = runs[0].command(["--data.root", "x"])
    assert command[command.index("--model.weights") + 1] == "random"
    assert command[-2:] == ["--data.root", "x"]
    assert "--model.weights" not in runs[5].command([])
    given.folds = [2]
    assert [run.fold for run in all_runs(given, tmp_path)] == [2, 2, None, None]


def test_all_runs__retrieval_and_baselines_have_options_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    rows = ["--checkpoint", f"log-mel={LOG_MEL}", "--checkpoint", str(tmp_path / "a.ckpt"), "--random"]
    given = build_parser().parse_args([*rows, "--recipe", RETRIEVAL, "--recipe", ESC50, "--folds", "2"])
    runs = list(all_runs(given, tmp_path))
    assert [run.weights.label for run in runs] == ["random weights", "log-mel", "a"] * 2
    assert runs[0].weights.file == str(tmp_path / "a.ckpt")  # the architecture of a checkpoint, not of a baseline
    test, fit = runs[1].command([]), runs[4].command([])
    assert (test[3], fit[3]) == ("test", "fit")
    for command in (test, fit):
        assert command[command.index("--config") + 2 : command.index("--config") + 4] == [
            "--config",
            runs[1].weights.file,
        ]
        assert runs[1].weights.file.endswith(LOG_MEL)
        assert "--model.initial_checkpoint" not in command
    assert ("--ckpt_path" in test, "--ckpt_path" in fit) == (False, True)
    assert ("--data.fold" in test, "--data.fold" in fit) == (False, True)
    assert "--model.initial_checkpoint" in runs[2].command([])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--checkpoint", LOG_MEL, "--random"], "--random takes a checkpoint's architecture, and none is given."),
        (["--checkpoint", "nowhere.ckpt"], "There is no checkpoint nowhere.ckpt. Pass --checkpoint NAME=FILE"),
        (["--checkpoint", "x=a.ckpt", "--checkpoint", "x=b.ckpt"], "Two checkpoints are called x."),
        (["--checkpoint", "a.ckpt", "--folds", "7"], "has the folds 1, 2, 3, 4, 5."),
    ],
)
def test_evaluate__mistakes(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.ckpt", "b.ckpt"):
        Path(name).touch()
    assert main(["evaluate", *args, "--recipe", ESC50]) == 2
    assert message in capsys.readouterr().err


def test_evaluate__a_missing_data_set_is_said_and_the_others_are_done(
    checkpoint: Path, esc50: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate.subprocess, "run", run_here)
    args = ["evaluate", "--checkpoint", f"SSLAM={checkpoint}", "--random", "--recipe", ESC50, "--run_id", "one"]
    assert main([*args, "--folds", "1", "2", *small(esc50)]) == 0
    said = capsys.readouterr()
    assert "[4/4] esc50_linear_probe, SSLAM, fold 2: done" in said.out
    root = Path("runs/evaluation/one")
    assert {"table.csv", "table.md", "index.html"} <= {path.name for path in root.iterdir()}
    record = json.loads((root / "esc50_linear_probe/SSLAM-fold2/results-test.json").read_text())
    assert record["data"]["title"] == "ESC-50 fold 2"
    assert record["checkpoint"]["label"] == "SSLAM"
    assert record["checkpoint"]["sha256"]
    assert record["num_heads"] == 3
    # The same command goes on: two folds are done before, a third is new, and a recipe without data is said.
    fold_3 = [*args, "--folds", "1", "3", "--recipe", "experiments/evaluation/ks1_linear_probe.yaml"]
    assert main([*fold_3, *small(esc50)]) == 0
    said = capsys.readouterr()
    assert "esc50_linear_probe, SSLAM, fold 1: done before" in said.out
    assert "esc50_linear_probe, SSLAM, fold 3: done" in said.out
    assert "ks1_linear_probe, SSLAM: not done, sslam fit:" in said.out
    assert "2 of 6 runs were not done" in said.err


def test_evaluate__retrieval_and_shallow_classifier_of_a_checkpoint_and_of_log_mels(
    checkpoint: Path, esc50: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate.subprocess, "run", run_here)
    data = [
        "--data.root",
        str(esc50),
        "--data.batch_size",
        "2",
        "--data.num_workers",
        "0",
        "--data.clip_seconds",
        "1.28",
    ]
    rows = ["--checkpoint", f"SSLAM={checkpoint}", "--random", "--checkpoint", f"log-mel={LOG_MEL}"]
    args = ["evaluate", *rows, "--run_id", "one", *data, "--trainer.accelerator", "cpu"]
    assert main([*args, "--recipe", RETRIEVAL]) == 0
    shallow = [
        "--recipe",
        "experiments/evaluation/esc50_shallow_classifier.yaml",
        "--folds",
        "1",
        "--model.epochs",
        "2",
    ]
    assert main([*args, *shallow]) == 0
    said = capsys.readouterr().out
    assert "[3/3] esc50_query_by_example, log-mel: done" in said
    assert "[3/3] esc50_shallow_classifier, log-mel, fold 1: done" in said
    record = json.loads(Path("runs/evaluation/one/esc50_query_by_example/log-mel/results-test.json").read_text())
    assert record["data"]["title"] == "ESC-50"
    assert record["data"]["num_clips"] == 15
    table = Path("runs/evaluation/one/table.md").read_text()
    assert "The same numbers by weights:" in table
    (line,) = [line for line in table.splitlines() if line.startswith("| log-mel ")]
    assert all(cell.strip() for cell in line.strip("|").split("|"))


@pytest.mark.slow
def test_evaluate__a_crash_is_no_success(
    checkpoint: Path, esc50: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of their own."""
    args = ["evaluate", "--checkpoint", str(checkpoint), "--recipe", ESC50, "--folds", "1", *small(esc50)]
    assert main([*args, "--trainer.callbacks", "[]"]) == 1
    assert "the run wrote no results-test.json; the recipe needs callbacks.EvaluationResults" in capsys.readouterr().out
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
