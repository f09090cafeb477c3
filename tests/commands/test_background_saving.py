"""Checkpoints that are written while training goes on: whole, in order, one at a time, and nothing lost by a kill."""

import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from sslam.__main__ import main
from sslam.commands.fit import command_that_goes_on
from sslam.commands.fitting import background_saving
from sslam.commands.fitting.background_saving import BackgroundCheckpoints, WholeCheckpoints, snapshot
from sslam.commands.fitting.resume import resolve_checkpoint
from sslam.commands.fitting.run_folder import RunFolder
from sslam.errors import UsageError
from tests.commands.test_fit_resume import state_of
from tests.commands.test_fit_saving import BARE


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_snapshot__is_a_copy_that_is_saved_as_the_original(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    state = OrderedDict(weight=shared.view(3, 4), tied=shared.view(3, 4), part=shared[2:5], scalar=torch.tensor(3))
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    original = {"state_dict": state, "list": [1, {"a": "b"}], "tuple": (torch.ones(2), None), "half": shared.half()}
    copied = snapshot(original)
    WholeCheckpoints().save_checkpoint(original, tmp_path / "a")
    WholeCheckpoints().save_checkpoint(copied, tmp_path / "b")
    assert (tmp_path / "a").stat().st_size == (tmp_path / "b").stat().st_size
    shared.zero_()
    original["list"].append(2)
    loaded = torch.load(tmp_path / "a")
    assert copied["state_dict"]._metadata == {"": {"version": 1}}
    assert copied["list"] == loaded["list"] == [1, {"a": "b"}]
    for name, tensor in loaded["state_dict"].items():
        assert torch.equal(copied["state_dict"][name], tensor)
        assert copied["state_dict"][name].stride() == tensor.stride()
    assert copied["state_dict"]["tied"].data_ptr() == copied["state_dict"]["weight"].data_ptr()


def test_background__writes_in_order_and_never_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, order = 0, 0, []
    original = background_saving.torch_save
    gate = threading.Event()

    def slow(values: Any, path: Path) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gate.wait(10)
        original(values, path)
        running -= 1

    monkeypatch.setattr(background_saving, "torch_save", slow)
    checkpoints = BackgroundCheckpoints()
    weight = torch.zeros(3)
    checkpoints.save_checkpoint({"weight": weight}, tmp_path / "1.ckpt")
    weight += 1  # training goes on
    checkpoints.afterwards(lambda: order.append(sorted(path.name for path in tmp_path.glob("*.ckpt"))))
    checkpoints.remove_checkpoint(tmp_path / "1.ckpt")
    assert not list(tmp_path.glob("*.ckpt"))
    threading.Timer(0.2, gate.set).start()
    checkpoints.save_checkpoint({"weight": weight}, tmp_path / "2.ckpt")
    checkpoints.teardown()
    assert order == [["1.ckpt"]]
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["2.ckpt"]
    assert torch.load(tmp_path / "2.ckpt")["weight"].tolist() == [1, 1, 1]
    assert most == 1


def test_background__what_follows_a_failure_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = BackgroundCheckpoints()
    checkpoints.save_checkpoint({"a": torch.ones(1)}, tmp_path / "1.ckpt")
    checkpoints.wait()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(background_saving, "torch_save", full)
        checkpoints.save_checkpoint({"a": torch.zeros(1)}, tmp_path / "2.ckpt")
        checkpoints.remove_checkpoint(tmp_path / "1.ckpt")
        with pytest.raises(UsageError, match=r"2.ckpt cannot be written \(No space left on device\)"):
            checkpoints.save_checkpoint({"a": torch.zeros(1)}, tmp_path / "3.ckpt")
    checkpoints.teardown()
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["1.ckpt"]


KILLED = """
import sys, time
from sslam.commands.fit import command_that_goes_on
from sslam.commands.fit import command_that_goes_on
from sslam.commands.fitting import background_saving
original, saved = background_saving.torch_save, []
def slow(values, path):
    if values["global_step"] >= 4:
        with path.open("wb") as stream:
            stream.write(b"half a checkpoint")
        print("writing", flush=True)
        time.sleep(600)
    original(values, path)
background_saving.torch_save = slow
from sslam.__main__ import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_fit__killed_while_it_saves_loses_nothing() -> None:
    options = ["--checkpoint.every_n_train_steps", "2"]
    assert main([*BARE, "--run_id", "straight", "--trainer.max_steps", "5", *options]) == 0
    command = [sys.executable, "-c", KILLED, *BARE, "--run_id", "killed", "--trainer.max_steps", "5", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "writing" in line:
            break
    process.kill()
    process.wait()
    assert state_of("killed")["global_step"] == 2
    again = [*BARE, "--run_id", "killed", "--ckpt_path", "last", "--trainer.max_steps", "5", *options]
    assert main(again) == 0
    states = [state_of(name)["state_dict"] for name in ("killed", "straight")]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    assert not list(Path("runs/resume/killed/checkpoints").glob(".*"))


def test_fit__states_come_by_minutes_and_milestones_always(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    original = WholeCheckpoints.save_checkpoint

    def save(self: Any, checkpoint: Any, path: Any, options: Any = None) -> None:
        saved.append(checkpoint["global_step"])
        original(self, checkpoint, path, options)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", save)
    options = ["--checkpoint.every_n_train_steps", "1", "--checkpoint.milestone_steps", "3", "--trainer.max_steps", "5"]
    assert main([*BARE, "--run_id", "hour", *options, "--checkpoint.every_minutes", "60"]) == 0
    assert saved == [3, 5]  # the milestone, the end
    saved.clear()
    clock = [0.0]

    def later() -> float:
        clock[0] += 40
        return clock[0]

    monkeypatch.setattr("sslam.commands.fitting.run_folder.time", type("Clock", (), {"monotonic": later}))
    assert main([*BARE, "--run_id", "minute", *options, "--checkpoint.every_minutes", "1"]) == 0
    assert 3 in saved
    assert 1 < len(saved) < 5
    assert time.monotonic() > 0


def test_fit__resume_goes_on_from_the_last_whole_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--checkpoint.every_n_train_steps", "1", "--checkpoint.milestone_steps", "1"]
    assert main([*BARE, "--resume", "one", "--trainer.max_steps", "3", *options]) == 0
    checkpoints = Path("runs/resume/one/checkpoints")
    newest = checkpoints / "step=00000003.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1000])  # as a disk that was full, or a copy that was cut off
    with pytest.warns(UserWarning, match=r"last.ckpt is damaged, so the one before it is taken"):
        assert resolve_checkpoint("last", RunFolder(Path("runs"), "resume", "one"), True) == str(
            checkpoints / "step=00000002.ckpt"
        )
    assert main([*BARE, "--resume", "one", "--ckpt_path", "last"]) == 2
    said = capsys.readouterr().err
    assert "--resume one is --run_id one --ckpt_path last in one word. Leave --ckpt_path out." in said
    assert command_that_goes_on(["fit", "--resume", "one", "--a", "b"], "one") == (
        "sslam fit --a b --run_id one --ckpt_path last"
    )
    assert main([*BARE, "--resume", "one", "--run_id", "two"]) == 2
    assert "Leave --run_id out" in capsys.readouterr().err
