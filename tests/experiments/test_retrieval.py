"""Retrieval and the shallow classifier: every YAML runs, with the baseline that needs no checkpoint and with ours."""

import math
from pathlib import Path
from typing import Any

import pytest

from sslam.__main__ import main
from sslam.report.results import read_record
from tests.experiments.conftest import composed_names, config_of, names

SMOKE = ["--config", "experiments/overrides/two_steps.yaml", "--run_id", "one"]
RETRIEVAL = names("query_by_example.yaml", "evaluation/*_query_by_example.yaml")
SHALLOW = names("evaluation/*_shallow_classifier.yaml")
BASELINES = names("evaluation/baselines/*.yaml")


def arguments(name: str, data_arguments: dict[str, list[str]]) -> list[str]:
    """Of the data, as far as the run needs them."""
    if name == "query_by_example.yaml":
        return []
    if name == "evaluation/esc50_query_by_example.yaml":
        return data_arguments["data/esc50.yaml"]
    return data_arguments[next(file for file in reversed(composed_names(name)) if file in data_arguments)]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("name", RETRIEVAL)
def test_retrieval__runs_for_two_batches(name: str, baseline: str, data_arguments: dict[str, list[str]]) -> None:
    files = ["--config", f"experiments/{name}", *SMOKE, "--config", f"experiments/{baseline}"]
    assert main(["test", *files, *arguments(name, data_arguments)]) == 0
    record = read_record(Path("runs") / Path(name).stem / "one" / "results-test.json")
    assert (record.method, record.checkpoint.weights, record.step) == ("QueryByExample", "none", 0)
    assert set(record.metrics) == {"qbe_map", "qbe_chance"}
    assert record.data.num_clips > 0 or math.isnan(record.metrics["qbe_map"])
    titles = {"audioset": "AudioSet-2M", "esc50": "ESC-50", "query": "Soundscapes"}
    assert record.data.title == titles[Path(name).stem.partition("_")[0]]


@pytest.mark.parametrize("name", SHALLOW)
def test_shallow_classifier__runs_on_a_few_clips(name: str, data_arguments: dict[str, list[str]]) -> None:
    files = ["--config", f"experiments/{name}", *SMOKE, "--config", f"experiments/{BASELINES[0]}"]
    assert main(["fit", *files, *arguments(name, data_arguments), "--model.epochs", "2"]) == 0
    record = read_record(Path("runs") / Path(name).stem / "one" / "results-test.json")
    assert (record.method, record.num_heads) == ("ShallowClassifier", 3)
    assert ("accuracy" in record.metrics) == ("esc50" in name)


@pytest.mark.parametrize("name", SHALLOW)
def test_shallow_classifier__is_the_published_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(capsys, name)["model"]
    assert config["class_path"] == "sslam.methods.LinearProbe"
    model = config["init_args"]
    published = {"hidden_width": 512, "normalisation": "l2", "selection_fraction": 0.05, "standardise": False}
    assert {key: model[key] for key in published} == published
    assert (model["frontend"], model["pooling"]) == (None, "cls")


def test_log_mel__has_the_published_features_whatever_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in ("evaluation/esc50_linear_probe.yaml", "evaluation/esc50_shallow_classifier.yaml"):
        model = config_of(capsys, recipe, "evaluation/baselines/log_mel.yaml")["model"]["init_args"]
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
        files = ["--config", "experiments/evaluation/esc50_query_by_example.yaml", *SMOKE[:-1], weighting]
        assert main(["test", *files, *more]) == 0
        record = read_record(Path("runs/esc50_query_by_example") / weighting / "results-test.json")
        assert record.checkpoint.label == f"{weighting} of last"
    capsys.readouterr()
    assert main(["fit", "--config", "experiments/query_by_example.yaml", *SMOKE, *weights]) == 2
    assert "retrieval trains nothing. Use sslam test" in capsys.readouterr().err
