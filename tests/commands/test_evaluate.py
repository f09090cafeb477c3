"""`sslam evaluate`: which runs it makes, what it goes on with, and a whole evaluation of a small checkpoint."""

import contextlib
import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sslam.__main__ import main
from sslam.commands import evaluate
from sslam.commands.evaluate import EvaluationRun, all_runs, build_parser, chosen_parts, recipes_of
from sslam.commands.evaluated_weights import Weights, weights_of
from sslam.commands.recipes import row_of
from tests.data_modules.official_layouts import write_class_folder

ESC50 = ["--task", "esc50", "--method", "linear_probe"]
CLASSES = ("dog", "rooster", "pig")
QUICK = "experiments/evaluation/quickstart.yaml"
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
            rows.append(f"{name},{fold},{clip},{CLASSES[clip]},False,{fold}{clip},A")
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


def run_here(command: list[str], output: Any) -> int:
    """As a process would, but faster."""
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        return main(command[3:])


def options(*args: str) -> Any:
    return build_parser().parse_args([*args, *ESC50])


def test_weights_of__names_and_random_weights(tmp_path: Path) -> None:
    for name in ("a.ckpt", "b=c.ckpt"):
        (tmp_path / name).touch()
    rows = weights_of(options("--checkpoint", f"stage 1={tmp_path / 'a.ckpt'}", "--random", "--no_baselines"))
    assert rows == [
        Weights("random weights", str(tmp_path / "a.ckpt"), random=True),
        Weights("stage 1", str(tmp_path / "a.ckpt")),
    ]
    (row,) = weights_of(options("--checkpoint", str(tmp_path / "b=c.ckpt"), "--no_baselines"))
    assert row == Weights("b=c", str(tmp_path / "b=c.ckpt"))


def runs_of(root: Path, *args: str) -> list[EvaluationRun]:
    given, more = build_parser().parse_known_args([*args, "--no_baselines"])
    recipes = recipes_of(given)
    chosen, _ = chosen_parts(recipes, more)
    return list(all_runs(given, recipes, chosen, root))


def test_all_runs__recipes_then_tasks_x_methods_x_weights_x_parts(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    weights = ["--checkpoint", str(tmp_path / "a.ckpt"), "--random"]
    tasks = ["--task", "esc50", "--task", "spass", "--method", "linear_probe", "--method", "fine_tune"]
    runs = runs_of(tmp_path / "evaluation", *weights, *tasks, "--recipe", QUICK)
    assert [run.recipe.name for run in runs] == [
        *["quickstart"] * 2,
        *["esc50_linear_probe"] * 10,
        *["esc50_fine_tune"] * 10,
        *["spass_linear_probe"] * 10,
        *["spass_fine_tune"] * 10,
    ]
    assert len({run.folder for run in runs}) == len(runs)
    assert runs[2].folder == tmp_path / "evaluation/esc50_linear_probe/random_weights-fold1"
    assert runs[22].folder == tmp_path / "evaluation/spass_linear_probe/random_weights-market"
    command = runs[2].command(["--data.root", "x"])
    files = [value for option, value in pairwise(command) if option == "--config"]
    assert files == [*row_of("esc50", "linear_probe").files]
    assert command[command.index("--model.weights") + 1] == "random"
    assert command[command.index("--data.fold") + 1] == "1"
    assert command[command.index("--data.root") + 1] == "x"
    assert "--model.weights" not in runs[7].command([])
    assert [str(run) for run in (runs[1], runs[8], runs[28])] == [
        "quickstart, a",
        "esc50_linear_probe, a, fold 2",
        "spass_linear_probe, a, park",
    ]


def test_all_runs__take_as_many_folds_as_the_command_line_asks_for(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    tasks = ["--task", "class_folder", "--method", "fine_tune", "--checkpoint", str(tmp_path / "a.ckpt")]
    given = ["--data.root", "my_sounds", "--data.init_args.num_folds=3", "--trainer.accelerator", "cpu"]
    assert [run.run_id for run in runs_of(tmp_path, *tasks, *given)] == ["a-fold1", "a-fold2", "a-fold3"]
    _, others = chosen_parts([row_of("class_folder", "fine_tune")], [*given, "--data.fold", "2"])
    assert others == given  # every run gets them


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--folds", "2"], ["fold2", "market", "park", "square", "street", "waterfront"]),
        (["--data.scene", "park", "--folds", "1", "5"], ["fold1", "fold5", "park"]),
        (["--data.scene=park", "--data.init_args.fold", "3", "--data.scene", "street"], ["fold3", "park", "street"]),
    ],
)
def test_all_runs__the_command_line_chooses_parts(args: list[str], parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    tasks = ["--task", "esc50", "--task", "spass", "--method", "fine_tune", "--checkpoint", str(tmp_path / "a.ckpt")]
    runs = runs_of(tmp_path, *tasks, *args)
    assert [run.run_id for run in runs] == [f"a-{part}" for part in parts]


def test_chosen_parts__leave_other_options_to_the_runs() -> None:
    more = ["--data.root", "x", "--data.scene", "park", "--trainer.max_steps=2", "--data.folder", "y"]
    rest = ["--data.root", "x", "--trainer.max_steps=2", "--data.folder", "y"]
    given = {"root": ["x"], "scene": ["park"], "folder": ["y"]}  # what parts there are may depend on the others
    assert chosen_parts([row_of("spass", "fine_tune")], more) == (given, rest)
    assert chosen_parts([row_of("esc50", "fine_tune")], more) == (given, more)


def test_all_runs__retrieval_and_baselines_have_options_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    rows = ["--checkpoint", f"log-mel={LOG_MEL}", "--checkpoint", str(tmp_path / "a.ckpt"), "--random"]
    methods = ["--task", "esc50", "--method", "query_by_example", "--method", "shallow_classifier"]
    runs = runs_of(tmp_path, *rows, *methods, "--folds", "2")
    assert [run.weights.label for run in runs] == ["random weights", "log-mel", "a"] * 2
    assert runs[0].weights.file == str(tmp_path / "a.ckpt")  # the architecture of a checkpoint, not of a baseline
    test, fit = runs[1].command([]), runs[4].command([])
    assert (test[3], fit[3]) == ("test", "fit")
    for command in (test, fit):
        assert command[command.index("--config") + 2 : command.index("--config") + 4] == [
            "--config",
            runs[1].weights.file,
        ]
        assert "--model.readouts" not in command  # it says nothing of its readout
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
        (["--checkpoint", "a.ckpt", "--folds", "7"], "esc50_linear_probe has no fold 7. Choose from 1, 2, 3, 4, 5"),
        (["--checkpoint", "a.ckpt", "--task", "spas"], "There is no task spas. Did you mean spass? The tasks are:"),
        (
            ["--checkpoint", "a.ckpt", "--method", "prob"],
            "There is no method prob. The methods are: attentive_probe, ",
        ),
        (["--checkpoint", "a.ckpt", "--recipe", "my.yaml"], "There is no config file my.yaml."),
    ],
)
def test_evaluate__mistakes(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.ckpt", "b.ckpt"):
        Path(name).touch()
    assert main(["evaluate", *args, *ESC50]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["--task", "esc50"], ["--method", "fine_tune"]])
def test_evaluate__what_to_do_must_be_said(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").touch()
    assert main(["evaluate", "--checkpoint", "a.ckpt", *args]) == 2
    message = capsys.readouterr().err
    assert "What to do is not said: pass a --task with a --method" in message
    assert "spass" in message
    assert "query_by_example" in message


def test_evaluate__a_missing_data_set_is_said_and_the_others_are_done(
    checkpoint: Path, esc50: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "run_child", run_here)
    args = ["evaluate", "--checkpoint", f"SSLAM={checkpoint}", "--random", "--no_baselines", *ESC50, "--run_id", "one"]
    assert main([*args, "--folds", "1", "2", *small(esc50)]) == 0
    said = capsys.readouterr()
    assert "[4/4] esc50_linear_probe, SSLAM, fold 2: done" in said.out
    root = Path("runs/evaluation/one")
    assert {"table.csv", "table.md", "index.html"} <= {path.name for path in root.iterdir()}
    record = json.loads((root / "esc50_linear_probe/SSLAM-fold2/results-test.json").read_text())
    assert (record["data"]["title"], record["data"]["fold"]) == ("ESC-50", 2)
    assert record["checkpoint"]["label"] == "SSLAM"
    assert record["checkpoint"]["sha256"]
    assert record["num_heads"] == 3
    # The same command goes on: two folds are done before, a third is new, and a recipe without data is said.
    fold_3 = [*args, "--folds", "1", "3", "--task", "audioset_2m"]
    assert main([*fold_3, *small(esc50)]) == 0
    said = capsys.readouterr()
    assert "esc50_linear_probe, SSLAM, fold 1: done before" in said.out
    assert "esc50_linear_probe, SSLAM, fold 3: done" in said.out
    assert "audioset_2m_linear_probe, SSLAM: not done, sslam fit:" in said.out
    assert "2 of 6 runs were not done" in said.err


def test_evaluate__retrieval_and_shallow_classifier_of_a_checkpoint_and_of_log_mels(
    checkpoint: Path, esc50: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "run_child", run_here)
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
    rows = ["--checkpoint", f"SSLAM={checkpoint}", "--random", "--no_baselines", "--checkpoint", f"log-mel={LOG_MEL}"]
    args = ["evaluate", *rows, "--run_id", "one", *data, "--trainer.accelerator", "cpu"]
    assert main([*args, "--task", "esc50", "--method", "query_by_example"]) == 0
    shallow = ["--task", "esc50", "--method", "shallow_classifier", "--folds", "1", "--model.epochs", "2"]
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
    args = ["evaluate", "--checkpoint", str(checkpoint), "--no_baselines", *ESC50, "--folds", "1", *small(esc50)]
    assert main([*args, "--trainer.callbacks", "[]"]) == 1
    assert "the run wrote no results-test.json; the recipe needs callbacks.EvaluationResults" in capsys.readouterr().out
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2


def test_evaluate__ones_own_classes_with_copies_and_broken_files(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command of the README."""
    folder = write_class_folder(tmp_path / "my_folder", {"dog": 7, "hen": 4, "rain": 9}, seconds=0.5)
    shutil.copy(folder / "rain" / "rain00.wav", folder / "rain" / "copy.wav")
    (folder / "dog" / "broken.wav").write_text("no audio")
    monkeypatch.setattr(evaluate, "run_child", run_here)
    row = ["--data", "my_folder", "--method", "linear_probe"]
    few = [
        "--random",
        "--no_baselines",
        "--model.epochs",
        "2",
        "--data.num_workers",
        "0",
        "--data.num_folds",
        "3",
        "--run_id",
        "one",
    ]
    assert main(["evaluate", "--checkpoint", str(checkpoint), *row, *few, "--trainer.accelerator", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "[6/6] class_folder_linear_probe, last, fold 3: done" in said
    runs = [Path(f"runs/evaluation/one/class_folder_linear_probe/last-fold{fold}") for fold in (1, 2, 3)]
    records = [json.loads((run / "results-test.json").read_text()) for run in runs]
    assert [(record["data"]["title"], record["data"]["fold"]) for record in records] == [
        ("my_folder", n) for n in (1, 2, 3)
    ]
    assert sum(record["data"]["num_clips"] for record in records) == 21
    assert all("accuracy" in record["metrics"] for record in records)
    folds = [(run / "folds.csv").read_text() for run in runs]
    assert folds[0] == folds[1] == folds[2]
    with (runs[0] / "folds.csv").open(newline="") as file:
        fold_of = {row["file"]: row["fold"] for row in csv.DictReader(file)}
    assert fold_of["rain/rain00.wav"] == fold_of["rain/copy.wav"]
    for run in runs:
        assert "my_folder/dog/broken.wav,unreadable" in (run / "bad_files.csv").read_text()
    assert "my_folder, accuracy (%)" in Path("runs/evaluation/one/table.md").read_text()
