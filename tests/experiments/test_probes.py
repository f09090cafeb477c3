"""Probes that choose a readout or take all tokens: for every task, by the rule, in a few steps."""

from pathlib import Path

import pytest

from sslam.__main__ import main
from sslam.commands.recipes import row_of, tasks
from sslam.report.results import read_record
from tests.experiments.conftest import config_of

OWN_FRONTEND = ("class_folder", "recorded_scenes", "rendered_scenes")
METHODS = {"best_readout_probe": "LinearProbe", "attentive_probe": "AttentiveProbe"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", sorted(tasks()))
def test_probe__runs_for_every_task(task: str, method: str, data_arguments: dict[str, list[str]]) -> None:
    files = [argument for file in row_of(task, method).files for argument in ("--config", file)]
    if task in OWN_FRONTEND:
        files += ["--model.frontend", "sslam.frontends.KaldiFbank"]
    smoke = ["--config", "experiments/overrides/smoke_classifier.yaml", "--run_id", "one", "--experiment", "row"]
    few = data_arguments.get(f"data/{task}.yaml", ["--data.num_train_scenes", "6", "--data.num_test_scenes", "6"])
    length = ["--model.epochs", "2"] if method == "best_readout_probe" else ["--trainer.max_epochs", "1"]
    assert main(["fit", *files, *smoke, *few, *length]) == 0
    record = read_record(Path("runs/row/one/results-test.json"))
    assert (record.method, record.num_heads) == (METHODS[method], 3)
    poolings = {"cls", "mean", "both", "statistics", "row_statistics"}
    assert record.readout in (poolings if method == "best_readout_probe" else {"tokens"})
    assert record.data.num_clips > 0


@pytest.mark.parametrize("name", ["attentive", "prototypical"])
def test_token_probes__differ_from_each_other_in_their_head_alone(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(capsys, f"evaluation/methods/{name}_probe.yaml")
    model, trainer = config["model"]["init_args"], config["trainer"]
    assert model["token_pooling"]["class_path"] == f"sslam.networks.{name.title()}Pooling"
    assert model["method_name"] == f"{name.title()}Probe"
    assert (model["freeze_encoder"], model["drop_path"], model["seeds"]) == (True, 0, [0, 1, 2])
    assert (model["learning_rate"], model["weight_decay_exempt_1d"], trainer["max_epochs"]) == (1e-3, True, 50)
    augmentation = model["augmentation"]
    assert (augmentation["mixup_alpha"], augmentation["mask_ratio"], augmentation["roll"]) == (0, 0, True)
