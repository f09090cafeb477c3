"""Retrieval and the shallow classifier: every YAML runs, with the baseline that needs no checkpoint and with ours."""

import math
from pathlib import Path
from typing import Any

import pytest

from sslam.__main__ import main
from sslam.commands.recipes import row_of, tasks
from sslam.report.results import read_record
from tests.experiments.conftest import SINGLE_LABEL, config_of, names

SMOKE = ["--config", "experiments/overrides/two_steps.yaml", "--run_id", "one", "--experiment", "row"]
BASELINES = names("evaluation/baselines/*.yaml")
TITLES = {"audioset_2m": "AudioSet-2M", "esc50": "ESC-50", "soundscapes": "Soundscapes"}


def files_of(task: str, method: str) -> list[str]:
    return [argument for file in row_of(task, method).files for argument in ("--config", file)]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("task", sorted(tasks()))
def test_retrieval__runs_for_two_batches(task: str, baseline: str, data_arguments: dict[str, list[str]]) -> None:
    files = [*files_of(task, "query_by_example"), *SMOKE, "--config", f"experiments/{baseline}"]
    assert main(["test", *files, *data_arguments.get(f"data/{task}.yaml", [])]) == 0
    record = read_record(Path("runs/row/one/results-test.json"))
    assert (record.method, record.checkpoint.weights, record.step) == ("QueryByExample", "none", 0)
    assert set(record.metrics) == {"qbe_map", "qbe_chance"}
    assert record.data.num_clips > 0 or math.isnan(record.metrics["qbe_map"])
    assert record.data.title == TITLES.get(task, record.data.title)


@pytest.mark.parametrize("task", sorted(tasks()))
def test_retrieval__takes_the_front_end_of_the_checkpoint(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(capsys, options=files_of(task, "query_by_example"))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["frontend"], model["examples_per_class"]) == (None, 100)
    # Nothing is held out, but test scenes are always of one fold's recordings.
    assert data.get("fold") == (1 if task == "recorded_scenes" else None)


@pytest.mark.parametrize("task", sorted(tasks()))
def test_shallow_classifier__runs_on_a_few_clips(task: str, data_arguments: dict[str, list[str]]) -> None:
    files = [*files_of(task, "shallow_classifier"), *SMOKE, "--config", f"experiments/{BASELINES[0]}"]
    few = data_arguments.get(f"data/{task}.yaml", ["--data.num_train_scenes", "6"])
    assert main(["fit", *files, *few, "--model.epochs", "2"]) == 0
    record = read_record(Path("runs/row/one/results-test.json"))
    assert (record.method, record.num_heads) == ("ShallowClassifier", 3)
    assert ("accuracy" in record.metrics) == (task in SINGLE_LABEL)


@pytest.mark.parametrize("task", sorted(tasks()))
def test_shallow_classifier__is_the_published_one(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(capsys, options=files_of(task, "shallow_classifier"))
    assert config["model"]["class_path"] == "sslam.methods.LinearProbe"
    model = config["model"]["init_args"]
    published = {"hidden_width": 512, "normalisation": "l2", "selection_fraction": 0.05, "standardise": False}
    assert {key: model[key] for key in published} == published
    assert (model["frontend"], model["pooling"]) == (None, "cls")
    assert not config["data"]["init_args"]["training_augmentation"]
    assert (model["epochs"], model["batch_size"]) == ((20, 1024) if task == "audioset_2m" else (100, 64))


def test_log_mel__has_the_published_features_whatever_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("linear_probe", "shallow_classifier"):
        baseline = ["--config", f"experiments/{BASELINES[0]}"]
        model = config_of(capsys, options=[*files_of("esc50", method), *baseline])["model"]["init_args"]
        assert model["frontend"]["class_path"] == "sslam.frontends.LogMel"
        arguments = model["frontend"]["init_args"]
        # Not the statistics of the recipe's filter banks.
        assert (arguments["num_mel_bins"], arguments["mean"], arguments["std"]) == (64, 0.0, 1.0)
        assert model["whole_clips"]


def test_retrieval__of_our_pretraining_without_a_word_about_its_front_end(
    data_arguments: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    smoke = ["--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"]
    assert main(["fit", *smoke, "--trainer.callbacks", "[]", "--run_id", "first"]) == 0
    weights = ["--model.initial_checkpoint", "runs/pretrain/first/checkpoints/last.ckpt"]
    for weighting in ("student", "teacher"):
        more: list[Any] = [*weights, "--model.weights", weighting, *data_arguments["data/esc50.yaml"]]
        files = [*files_of("esc50", "query_by_example"), *SMOKE, "--run_id", weighting]
        assert main(["test", *files, *more]) == 0
        record = read_record(Path("runs/row") / weighting / "results-test.json")
        assert record.checkpoint.label == f"{weighting} of last"
    capsys.readouterr()
    assert main(["fit", *files_of("soundscapes", "query_by_example"), *SMOKE, *weights]) == 2
    assert "retrieval trains nothing. Use sslam test" in capsys.readouterr().err
