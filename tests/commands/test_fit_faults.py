"""A run whose process is killed, or whose folder is taken away, says so in a few lines and can be gone on with."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sslam import methods
from sslam.__main__ import main
from sslam.commands.exit_codes import FAILED
from tests.commands.test_fit_signals import FIT, SSLAM, start, wait_for_steps

MOST_LINES = 12
EVERY_STEP = ["--checkpoint.every_n_train_steps", "1"]


def other_process(launcher: int) -> int:
    """The run's second process."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (folder / "stat").exists():
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and b"sslam" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError("there is no second process")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("killed", ["first", "second"])
def test_fit__one_process_of_two_is_killed(killed: str, tmp_path: Path) -> None:
    run = [*FIT, "--config", "experiments/overrides/ddp.yaml", *EVERY_STEP, "--run_id", "killed"]
    logged = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs", "--trainer.logger.version", "one"]
    fit = start([*SSLAM, *run, *logged, "--trainer.logger.flush_logs_every_n_steps", "1"], tmp_path)
    wait_for_steps(tmp_path / "logs/lightning_logs/one/metrics.csv", 3, fit)
    before = len((tmp_path / "said.txt").read_text().splitlines())
    second = other_process(fit.pid)
    os.kill(second if killed == "second" else fit.pid, signal.SIGKILL)
    assert fit.wait(100) == (FAILED if killed == "second" else -signal.SIGKILL)
    wait_for_end(second)
    said = (tmp_path / "said.txt").read_text()
    assert "Traceback" not in said
    assert len(said.splitlines()) - before <= MOST_LINES
    assert "another process of the run has ended" in said.splitlines()[-1]
    last = tmp_path / "runs/stopped/killed/checkpoints/last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    again = [*SSLAM, *run, "--ckpt_path", "last", "--trainer.max_steps", str(step + 1)]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(last, weights_only=True)["global_step"] == step + 1


def wait_for_end(process: int) -> None:
    """A process that is no child of this one."""
    end = time.monotonic() + 100
    while Path(f"/proc/{process}").exists() and "State:\tZ" not in Path(f"/proc/{process}/status").read_text():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_fit__the_run_folder_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was kept elsewhere is gone on with."""
    monkeypatch.chdir(tmp_path)
    run = [*FIT, *EVERY_STEP, "--trainer.max_steps"]
    assert main([*run, "2", "--run_id", "kept"]) == 0
    original = methods.SSLAM.training_step

    def training_step(self: methods.SSLAM, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 1 and Path("runs/stopped/gone").exists():
            shutil.rmtree("runs/stopped/gone")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(methods.SSLAM, "training_step", training_step)
    capsys.readouterr()
    code = main([*run, "4", "--run_id", "gone", "--trainer.logger", "true"])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sslam")]
    assert code in (0, 2)
    assert len(said) <= 1
    if code == 2:
        assert "runs/stopped/gone" in said[0]
    else:
        assert torch.load("runs/stopped/gone/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    kept = str(Path("runs/stopped/kept/checkpoints/last.ckpt"))
    assert main([*run, "3", "--run_id", "again", "--ckpt_path", kept]) == 0
