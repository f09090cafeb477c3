"""`sslam evaluate` makes no run that is other than its table says."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sslam.__main__ import main
from sslam.commands import evaluate
from sslam.commands.evaluate import EvaluationRun
from sslam.commands.evaluated_weights import Weights
from sslam.commands.recipes import Recipe

RECIPE = ["--task", "esc50", "--method", "linear_probe"]


@pytest.fixture(autouse=True)
def _checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").touch()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.label", "x"], "--model.label cannot be given for every run"),
        # Folds 1 and 2 would be the same run.
        (
            ["--data", "data_modules.LabelledManifestDataModule"],
            "--data must be the data of esc50_linear_probe",
        ),
        (["--data", "."], "--data . stands for --task class_folder. Leave --task and --recipe out"),
        (["--data=SPASSDataModule"], "data_modules.ESC50DataModule, got SPASSDataModule, with which its folds"),
        (["--data.class_path", "data_modules.SPASSDataModule"], "--data.class_path must be the data of esc50_linear"),
        (["--folds", "1", "7"], "esc50_linear_probe has no fold 7. Choose from 1, 2, 3, 4, 5"),
        (["--data.fold", "7"], "esc50_linear_probe has no fold 7."),
        (["--data.fold", "null"], "esc50_linear_probe has no fold null."),
        (["--task", "spass", "--data.scene", "mraket"], "spass_linear_probe has no scene mraket. Choose from market"),
        (["--checkpoint", "=a.ckpt"], "--checkpoint =a.ckpt has an empty name"),
        # The second one would count as done before.
        (["--task", "esc50"], "esc50_linear_probe/random_weights-fold1. Name every task, method and recipe once"),
        (["--checkpoint", "b c=a.ckpt", "--checkpoint", "b_c=a.ckpt"], "esc50_linear_probe, b c, fold 1 and esc50_li"),
    ],
)
def test_evaluate__refuses_what_would_not_be_what_the_table_says(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--checkpoint", "a.ckpt", *RECIPE, *args]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_evaluate__a_folder_of_ones_own_is_the_task_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def no_run(command: list[str], _: Any) -> int:
        commands.append(command)
        return 2

    monkeypatch.setattr(evaluate, "run_child", no_run)
    for name in ("dog", "rain"):
        Path("sounds", name).mkdir(parents=True)
    given = ["evaluate", "--checkpoint", "a.ckpt", "--no_baselines", "--data", "sounds", "--folds", "1"]
    main([*given, "--run_id", "one"])
    main([*given, "--run_id", "two", "--method", "fine_tune", "--method", "query_by_example"])
    named = [command[command.index("--experiment") + 1] for command in commands]
    assert named == [f"class_folder_{name}" for name in ("best_readout_probe", "fine_tune", "query_by_example")]
    for command in commands:
        assert ("--data.root", "sounds") in pairwise(command)
        assert "--data" not in command


def test_evaluate__a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--checkpoint", "a.ckpt", "--data", "suonds"]) == 2
    assert (
        "there is no suonds. Correct the path, or choose a data set by --task: audioset_20k" in capsys.readouterr().err
    )


def test_evaluate__random_weights_stay_random_whatever_the_checkpoints_are(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def no_run(command: list[str], _: Any) -> int:
        commands.append(command)
        return 2

    monkeypatch.setattr(evaluate, "run_child", no_run)
    given = ["--checkpoint", "a.ckpt", "--random", "--no_baselines", "--model.weights", "teacher"]
    main(["evaluate", *RECIPE, "--folds", "1", *given])
    # The last one counts.
    assert [[value for option, value in pairwise(command) if option == "--model.weights"] for command in commands] == [
        ["teacher", "random"],
        ["teacher"],
    ]
    assert commands[1][commands[1].index("--experiment") + 1] == "esc50_linear_probe"


def test_evaluate__names_the_users_classes_to_runs_of_checkpoints(tmp_path: Path) -> None:
    given = {"recipe": Recipe("recipe", ("recipe.yaml",)), "part": {}, "root": tmp_path, "user_classes": ("a.B", "c.D")}
    options = EvaluationRun(weights=Weights("a", "a.ckpt"), **given).options()  # type: ignore[arg-type]
    assert options["--model.user_classes"] == '["a.B", "c.D"]'
    Path("b.yaml").write_text("model: {}")
    baseline = EvaluationRun(weights=Weights("b", "b.yaml"), **given).options()  # type: ignore[arg-type]
    assert "--model.user_classes" not in baseline


def test_run_in_process__quotes_this_attempt_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = EvaluationRun(Recipe("recipe", ("recipe.yaml",)), Weights("a", "a.ckpt"), {}, tmp_path)
    texts = iter(["sslam fit: no such folder é\n", "MemoryError\n", ""])

    def fails(_: list[str], output: Any) -> int:
        output.write(next(texts))
        return 1

    monkeypatch.setattr(evaluate, "run_child", fails)
    assert evaluate.run_in_process(evaluation, []) == (1, "sslam fit: no such folder é")
    assert evaluate.run_in_process(evaluation, []) == (1, "MemoryError")
    assert evaluate.run_in_process(evaluation, []) == (1, "no output")


def test_evaluate__interrupted_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run_in_process", interrupted)
    assert (
        main(["evaluate", "--checkpoint", "a.ckpt", *RECIPE, "--folds", "1", "--run_id", "mine", "--no_baselines"])
        == 130
    )
    said = capsys.readouterr()
    assert said.out == "[1/1] esc50_linear_probe, a, fold 1\n"
    assert said.err == "sslam evaluate: Interrupted. Go on with the same command and --run_id mine.\n"
