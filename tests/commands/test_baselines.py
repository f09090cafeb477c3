"""What `sslam evaluate` sets beside every checkpoint: which rows, what wins over other options, and that they run."""

from itertools import pairwise
from pathlib import Path

import pytest

from sslam.__main__ import main
from sslam.commands import evaluate
from sslam.commands.evaluate import EvaluationRun, all_runs, build_parser, chosen_parts, recipes_of
from sslam.commands.evaluated_weights import baseline_files
from sslam.report.results import read_record
from tests.commands.test_evaluate import run_here
from tests.data_modules.official_layouts import write_class_folder

RANDOM, LOG_MEL, MFCC = "random weights", "log-mel statistics", "MFCC statistics"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").touch()


def runs_of(*args: str) -> list[EvaluationRun]:
    given, more = build_parser().parse_known_args(["--task", "soundscapes", *args])
    recipes = recipes_of(given)
    return list(all_runs(given, recipes, chosen_parts(recipes, more)[0], Path("root")))


def rows(*args: str) -> list[str]:
    return [run.weights.label for run in runs_of("--method", "linear_probe", *args)]


def test_baselines__are_in_every_table_unless_they_are_left_out() -> None:
    checkpoint = ["--checkpoint", "SSLAM=a.ckpt"]
    assert rows(*checkpoint) == [RANDOM, LOG_MEL, MFCC, "SSLAM"]
    assert rows(*checkpoint, "--random") == [RANDOM, LOG_MEL, MFCC, "SSLAM"]
    assert rows(*checkpoint, "--no_baselines") == ["SSLAM"]
    assert rows(*checkpoint, "--no_baselines", "--random") == [RANDOM, "SSLAM"]
    file = baseline_files()[LOG_MEL]
    assert rows("--checkpoint", f"mel={file}") == [MFCC, "mel"]  # no weights, and none twice


READOUTS, TOKENS = {"--model.readouts"}, {"--model.token_pooling"}


@pytest.mark.parametrize(
    ("method", "left_out"),
    [
        *[(method, READOUTS) for method in ("linear_probe", "best_readout_probe", "shallow_classifier")],
        *[(method, TOKENS) for method in ("fine_tune", "attentive_probe", "prototypical_probe")],
        ("query_by_example", set()),
    ],
)
def test_baselines__have_their_own_readout_and_front_end(method: str, left_out: set[str]) -> None:
    _, log_mel, _, sslam = (
        run.command(["--model.pooling", "mean"]) for run in runs_of("--method", method, "--checkpoint", "SSLAM=a.ckpt")
    )
    files = [value for option, value in pairwise(log_mel) if option == "--config"]
    assert files[-1] == baseline_files()[LOG_MEL]
    assert log_mel.index(files[-1]) > log_mel.index("--model.pooling")  # what comes last counts
    assert (READOUTS | TOKENS) & {*log_mel} == left_out
    assert not (READOUTS | TOKENS) & {*sslam}


def test_baselines__run_under_every_method(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    smoke = ["--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"]
    assert main(["fit", *smoke, "--trainer.callbacks", "[]", "--run_id", "first"]) == 0
    monkeypatch.setattr(evaluate, "run_child", run_here)
    folder = write_class_folder(Path("sounds").absolute(), {"dog": 6, "hen": 6}, seconds=1.5)
    args = [
        "--checkpoint",
        "SSLAM=runs/pretrain/first/checkpoints/last.ckpt",
        "--run_id",
        "one",
        "--task",
        "class_folder",
    ]
    data = ["--data.root", str(folder), "--data.num_workers", "0", "--data.num_folds", "3", "--folds", "1"]
    # Options that are not for them: none of them has layers, or a front end of 128 bands.
    encoder = ["--model.pooling", "both", "--model.layers", "[1,2]"]
    few = ["--trainer.accelerator", "cpu", "--data.batch_size", "4"]
    methods = {
        "linear_probe": [*encoder, "--model.epochs", "2"],
        "best_readout_probe": ["--model.epochs", "2"],
        "fine_tune": [*encoder, "--trainer.max_steps", "2"],
        "query_by_example": encoder,
        "prototypical_probe": ["--trainer.max_epochs", "1"],
    }
    for method, more in methods.items():
        assert main(["evaluate", *args, "--method", method, *data, *few, *more]) == 0, capsys.readouterr().out
        runs = Path(f"runs/evaluation/one/class_folder_{method}")
        records = {path.parent.name: read_record(path) for path in runs.glob("*/results-test.json")}
        shown = {name.partition("-fold")[0]: record for name, record in records.items()}
        assert {*shown} == {"random_weights", "log-mel_statistics", "MFCC_statistics", "SSLAM"}
        assert {shown[name].readout for name in ("log-mel_statistics", "MFCC_statistics")} == {"statistics"}
        assert {shown[name].checkpoint.weights for name in ("log-mel_statistics", "MFCC_statistics")} == {"none"}
        names = {
            "prototypical_probe": "PrototypicalProbe",
            "fine_tune": "FineTune",
            "query_by_example": "QueryByExample",
        }
        assert {record.method for record in records.values()} == {names.get(method, "LinearProbe")}
        if method == "prototypical_probe":
            assert shown["SSLAM"].readout == "tokens"
        elif method != "best_readout_probe":
            assert {shown[name].readout for name in ("random_weights", "SSLAM")} == {"both of layers 1, 2"}
