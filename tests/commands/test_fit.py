"""`sslam fit` and its like as a user meets them: run folders, loggers, checkpoints."""

from pathlib import Path

import pytest
import torch
import yaml

from sslam.__main__ import main
from sslam.commands.fitting.config_files import experiments_folder
from sslam.methods import SSLAM

SMOKE = ["--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"]
BARE = [*SMOKE, "--trainer.callbacks", "[]"]  # without pictures, which take most of the time


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a checkout, so that the project's own YAML files are found as after a wheel install."""
    monkeypatch.chdir(tmp_path)


def run_folders(experiment: str = "pretrain") -> list[Path]:
    return sorted(Path("runs", experiment).iterdir(), key=lambda folder: folder.stat().st_mtime)


def test_fit__help_is_headed_by_a_short_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert text.startswith("usage: sslam fit --config FILE.yaml")
    for option in ("--experiment", "--run_id", "--checkpoint.every_n_train_steps", "--ckpt_path"):
        assert option in text


def test_fit__the_run_folder_has_config_checkpoints_and_logs() -> None:
    assert main(["fit", *SMOKE]) == 0
    (folder,) = run_folders()
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("events.out.tfevents.*"))
    assert list(folder.glob("pictures/*.png"))
    assert (folder / "checkpoints/last.ckpt").resolve().name == "step=00000002.ckpt"
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    assert "train/loss" in header
    assert len(rows) >= 2
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["experiment"] == "pretrain"
    assert config["run_id"] is None
    assert config["seed_everything"] == 0
    assert config["model"]["init_args"]["stages"][0]["steps"] == 400_000


def test_fit__a_file_of_ones_own_is_taken_before_the_projects() -> None:
    Path("experiments").mkdir()
    Path("experiments/pretrain.yaml").write_text("seed_everything: 7\n")
    project = str(experiments_folder() / "pretrain.yaml")
    assert main(["fit", "--config", project, *BARE[2:], "--config", "experiments/pretrain.yaml"]) == 0
    config = yaml.safe_load((run_folders()[0] / "config.yaml").read_text())
    assert config["seed_everything"] == 7


def test_fit__a_class_can_be_built_from_a_yaml_beside_the_one_that_names_it() -> None:
    Path("mine").mkdir()
    Path("mine/encoder.yaml").write_text("class_path: sslam.networks.AudioViT\ninit_args: {width: 48}\n")
    Path("mine/stage.yaml").write_text("{steps: 2, warmup_steps: 1, num_clones: 3}\n")
    Path("mine/run.yaml").write_text(
        "model: {init_args: {encoder: encoder.yaml, stages: [stage.yaml, {steps: 30000}]}}\n"
    )
    width = ["--model.decoder.width", "48"]
    assert main(["fit", *BARE, "--config", "mine/run.yaml", *width]) == 0
    arguments = yaml.safe_load((run_folders()[0] / "config.yaml").read_text())["model"]["init_args"]
    assert arguments["encoder"]["init_args"]["width"] == 48
    assert [stage["steps"] for stage in arguments["stages"]] == [2, 30000]
    assert arguments["stages"][0]["num_clones"] == 3


def test_fit__again_makes_another_folder_also_from_the_saved_config() -> None:
    assert main(["fit", *BARE]) == 0
    first = run_folders()[0]
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert main(["fit", *BARE]) == 0
    assert main(["fit", "--config", str(first / "config.yaml")]) == 0
    assert len(run_folders()) == 3
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_fit__the_same_run_id_keeps_what_is_there() -> None:
    named = [*BARE, "--experiment", "mine", "--run_id", "a"]
    assert main(["fit", *named]) == 0
    folder = Path("runs/mine/a")
    config, metrics = (folder / "config.yaml").read_text(), (folder / "metrics.csv").read_text()
    state = (folder / "checkpoints/step=00000002.ckpt").read_bytes()
    assert main(["fit", *named, "--seed_everything", "1"]) == 0
    assert (folder / "config.yaml").read_text() == config
    assert yaml.safe_load((folder / "config-1.yaml").read_text())["seed_everything"] == 1
    assert (folder / "metrics-1.csv").read_text() == metrics
    assert (folder / "checkpoints/step=00000002.ckpt").read_bytes() == state
    assert (folder / "checkpoints/step=00000002-v1.ckpt").read_bytes() != state


def test_fit__callbacks_of_a_yaml_leave_checkpoints_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *SMOKE, "--trainer.callbacks", "[lightning.pytorch.callbacks.LearningRateMonitor]"]) == 0
    (folder,) = run_folders()
    assert (folder / "checkpoints/last.ckpt").exists()
    assert not (folder / "pictures").exists()
    assert "2/2" in capsys.readouterr().out


def test_fit__checkpoints_progress_and_logs_can_be_turned_off() -> None:
    off = [
        "--trainer.enable_checkpointing",
        "false",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.logger",
        "false",
    ]
    assert main(["fit", *BARE, *off]) == 0
    (folder,) = run_folders()
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "config.yaml", "data.json"]


def test_fit__keeps_milestones_and_the_last_state() -> None:
    steps = ["--trainer.max_steps", "5", "--checkpoint.every_n_train_steps", "1", "--checkpoint.milestone_steps", "2"]
    assert main(["fit", *BARE, *steps]) == 0
    (folder,) = run_folders()
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["last.ckpt", "step=00000002.ckpt", "step=00000004.ckpt", "step=00000005.ckpt"]
    assert (folder / "checkpoints/last.ckpt").resolve().name == "step=00000005.ckpt"


def test_fit__a_checkpoint_rebuilds_its_model() -> None:
    assert main(["fit", *BARE]) == 0
    path = run_folders()[0] / "checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    model = SSLAM.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert model.student.width == 32
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved["state_dict"][name])


def test_validate_test_predict__write_into_a_run_folder() -> None:
    for command in ("validate", "test"):
        assert main([command, *BARE, "--trainer.limit_test_batches", "2", "--experiment", command]) == 0
        (folder,) = run_folders(command)
        (results,) = yaml.safe_load((folder / f"{command}.yaml").read_text())
        prefix = "val" if command == "validate" else "test"
        assert results[f"{prefix}/loss"] > 0
    assert main(["predict", *BARE, "--trainer.limit_predict_batches", "2", "--experiment", "predict"]) == 0
    (folder,) = run_folders("predict")
    predictions = torch.load(folder / "predictions-0.pt", weights_only=True)
    assert [tuple(batch["cls"].shape) for batch in predictions] == [(2, 32), (2, 32)]


def test_predict__random_weights_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    warning = "sslam: The model has random weights: no checkpoint was given. Give it with --ckpt_path.\n"
    assert main(["fit", *BARE]) == 0
    assert warning not in capsys.readouterr().err  # a run that begins
    checkpoint = str(run_folders()[0] / "checkpoints/last.ckpt")
    predict = ["predict", *BARE, "--trainer.limit_predict_batches", "2"]
    for given in (["--ckpt_path", checkpoint], ["--model.initial_checkpoint", checkpoint]):
        assert main([*predict, *given]) == 0
        assert warning not in capsys.readouterr().err
    assert main(predict) == 0
    assert capsys.readouterr().err.count(warning) == 1


def test_fit__a_logger_without_a_folder_gets_none() -> None:
    assert main(["fit", *BARE, "--trainer.logger", "lightning.pytorch.loggers.logger.DummyLogger"]) == 0
    assert "train/loss" in (run_folders()[0] / "metrics.csv").read_text()


def test_fit__weights_and_biases_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setenv("WANDB_MODE", "offline")
    try:
        assert main(["fit", *BARE, "--config", "experiments/overrides/wandb.yaml"]) == 0
    finally:
        wandb.finish()
    (folder,) = run_folders()
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert "train/loss" in (folder / "metrics.csv").read_text()
    assert not Path("wandb").exists()
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["trainer"]["logger"]["init_args"]["save_dir"] == "."  # not this run's folder: the next run has its own
