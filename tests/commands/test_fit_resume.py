"""Going on from a checkpoint: exactly, safely, and with the config's values."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sslam.__main__ import main
from sslam.methods import SSLAM

STAGES = (
    "[{name: one, steps: 3, warmup_steps: 1, num_clones: 2}, {name: two, steps: 5, warmup_steps: 2, num_clones: 2}]"
)
RUN = [
    "fit",
    *("--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"),
    *("--trainer.callbacks", "[]", "--trainer.max_steps", "-1", "--model.stages", STAGES),
    # five batches per epoch: the run is cut in the middle of an epoch
    *("--data.num_train_scenes", "10", "--data.num_val_scenes", "0", "--checkpoint.every_n_train_steps", "2"),
    *("--experiment", "resume", "--model.ema_decay", "0.9"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def state_of(run_id: str) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(f"runs/resume/{run_id}/checkpoints/last.ckpt", weights_only=True)
    return state


def assert_equal_states(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first["global_step"] == second["global_step"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), name
    moments, others = (state["optimizer_states"][0]["state"] for state in (first, second))
    assert moments.keys() == others.keys()
    for parameter, values in moments.items():
        for name, value in values.items():
            assert torch.equal(value, others[parameter][name]), (parameter, name)


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, run_id: str, *more: str) -> None:
    """Starts the run and lets it die in the middle of a step."""
    training_step = SSLAM.training_step

    def dying_step(self: SSLAM, *args: Any, **kwargs: Any) -> Any:
        if self.global_step == step:
            raise RuntimeError("killed")
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SSLAM, "training_step", dying_step)
        with pytest.raises(RuntimeError, match="killed"):
            main([*RUN, "--run_id", run_id, *more])


@pytest.mark.parametrize("step", [3, 5], ids=["resumed before the second stage", "resumed in the second stage"])
def test_fit__resumed_equals_straight_bit_for_bit(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*RUN, "--run_id", "straight"]) == 0
    killed_at(step, monkeypatch, "killed")
    last = "runs/resume/killed/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step - 1
    assert main(["fit", "--config", "runs/resume/killed/config.yaml", "--run_id", "resumed", "--ckpt_path", last]) == 0
    straight = state_of("straight")
    assert straight["global_step"] == 8
    assert_equal_states(state_of("resumed"), straight)


def test_fit__last_goes_on_in_the_same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(5, monkeypatch, "same")
    metrics = Path("runs/resume/same/metrics.csv").read_text()
    assert main([*RUN, "--run_id", "same", "--ckpt_path", "last"]) == 0
    assert state_of("same")["global_step"] == 8
    assert Path("runs/resume/same/config-1.yaml").exists()
    assert Path("runs/resume/same/metrics-1.csv").read_text() == metrics


@pytest.mark.parametrize("link", ["dangling", "none"])
def test_fit__last_after_a_run_that_was_killed_while_it_moved_the_link(
    link: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed_at(5, monkeypatch, "same", "--checkpoint.milestone_steps", "2")
    last = Path("runs/resume/same/checkpoints/last.ckpt")
    assert sorted(path.name for path in last.parent.glob("step=*")) == ["step=00000002.ckpt", "step=00000004.ckpt"]
    last.unlink()
    if link == "dangling":
        last.symlink_to("step=00000003.ckpt")
    with caplog.at_level(logging.INFO):
        assert main([*RUN, "--run_id", "same", "--ckpt_path", "last"]) == 0
    assert "step=00000004.ckpt" in caplog.text
    assert "from the beginning" not in caplog.text
    assert state_of("same")["global_step"] == 8


def test_validate__last_needs_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    message = complaint(["validate", *RUN[1:], "--run_id", "new", "--ckpt_path", "last"], capsys)
    assert message == "sslam validate: There is no checkpoint in runs/resume/new/checkpoints."


def test_fit__goes_on_without_the_file_it_started_from(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*RUN, "--run_id", "first", "--trainer.max_steps", "1"]) == 0
    start = Path("start.ckpt")
    start.write_bytes(Path("runs/resume/first/checkpoints/last.ckpt").read_bytes())
    given = ["--model.initial_checkpoint", str(start)]
    killed_at(3, monkeypatch, "second", *given)
    start.unlink()
    with caplog.at_level(logging.INFO):
        # as it was started, from the saved config, and without naming the file
        assert main([*RUN, *given, "--run_id", "second", "--ckpt_path", "last"]) == 0
        saved = [
            "--config",
            "runs/resume/second/config.yaml",
            "--ckpt_path",
            "runs/resume/second/checkpoints/last.ckpt",
        ]
        assert main(["validate", *saved, "--data.num_val_scenes", "4"]) == 0
        assert main([*RUN, *saved[-2:]]) == 0
    assert "config wins" not in caplog.text
    assert state_of("second")["global_step"] == 8
    config = yaml.safe_load(Path("runs/resume/second/config-1.yaml").read_text())
    assert config["model"]["init_args"]["initial_checkpoint"] == "start.ckpt"
    assert state_of("second")["hyper_parameters"]["initial_checkpoint"] == "start.ckpt"


def test_fit__last_starts_a_run_that_has_no_checkpoint_yet(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert main([*RUN, "--run_id", "new", "--ckpt_path", "last", "--trainer.max_steps", "1"]) == 0
    assert "yet: the run starts from the beginning" in caplog.text
    assert state_of("new")["global_step"] == 1


def test_fit__the_configs_values_win_over_the_checkpoints(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed_at(3, monkeypatch, "first")
    last = "runs/resume/first/checkpoints/last.ckpt"
    changed = ["--model.weight_decay", "0.3", "--model.betas", "[0.8, 0.9]", "--model.stages.learning_rate", "0.002"]
    with caplog.at_level(logging.INFO):
        assert main([*RUN, "--run_id", "second", "--ckpt_path", last, *changed]) == 0
    notice = next(record.getMessage() for record in caplog.records if "config wins" in record.getMessage())
    assert "weight_decay: 0.05 in the checkpoint, 0.3 now" in notice
    assert "betas.0: 0.9 in the checkpoint, 0.8 now" in notice
    assert "stages.1.learning_rate: 5e-05 in the checkpoint, 0.002 now" in notice
    saved = state_of("second")
    assert saved["hyper_parameters"]["weight_decay"] == 0.3
    for group in saved["optimizer_states"][0]["param_groups"]:
        assert group["weight_decay"] == 0.3
        assert tuple(group["betas"]) == (0.8, 0.9)
    # The last step of five with a warm-up of two, from a peak of 0.002.
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.002 * 0.25)


def complaint(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(args) == 2
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("sslam"))


def test_fit__a_checkpoint_of_another_width_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_at(3, monkeypatch, "first")
    last = "runs/resume/first/checkpoints/last.ckpt"
    for command in ("fit", "predict"):
        message = complaint([command, *RUN[1:], "--ckpt_path", last, "--model.encoder.depth", "3"], capsys)
        assert re.search(r"last.ckpt does not fit the model \(\d+ tensors\)", message)
        assert "encoder.init_args.depth: 2 in the checkpoint, 3 now" in message


def test_fit__a_missing_checkpoint_is_found_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unbuilt(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr(SSLAM, "__init__", unbuilt)
    Path("checkpoints").mkdir()
    Path("checkpoints/last.ckpt").touch()
    message = complaint([*RUN, "--ckpt_path", "checkpoints/lats.ckpt"], capsys)
    assert message == "sslam fit: There is no checkpoint checkpoints/lats.ckpt. Did you mean checkpoints/last.ckpt?"
    torch.save({"model": {}}, "checkpoints/foreign.ckpt")
    for name in ("last", "foreign"):
        message = complaint([*RUN, "--ckpt_path", f"checkpoints/{name}.ckpt"], capsys)
        assert message.startswith(f"sslam fit: checkpoints/{name}.ckpt is not a checkpoint that a run can go on from.")
        assert message.endswith(f"Start from its weights with --model.initial_checkpoint checkpoints/{name}.ckpt.")
    assert not Path("runs").exists()


def test_fit__statistics_are_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = ["--model.frontend.statistics", "auto"]
    assert main([*RUN, *auto, "--run_id", "straight"]) == 0
    killed_at(5, monkeypatch, "killed", *auto)
    monkeypatch.setattr("sslam.methods.method.measured", lambda *_: pytest.fail("measured again"))
    assert main([*RUN, *auto, "--run_id", "killed", "--ckpt_path", "last"]) == 0
    assert_equal_states(state_of("killed"), state_of("straight"))
    kept = yaml.safe_load(Path("runs/resume/killed/frontend.yaml").read_text())
    measured = kept["model"]["init_args"]["frontend"]["init_args"]
    stated = state_of("killed")["architecture"]["frontend"]["init_args"]
    assert (stated["mean"], stated["std"]) == (measured["mean"], measured["std"])
