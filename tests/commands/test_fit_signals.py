"""A run that is told to end keeps its state after the step that it is in; real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sslam.commands.exit_codes import INTERRUPTED, REQUEUE, TERMINATED
from tests.commands.test_fit_resume import assert_equal_states

NUM_STEPS = 60
FIT = [
    "fit",
    *("--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"),
    *("--trainer.callbacks", "[]", "--trainer.max_steps", str(NUM_STEPS), "--data.num_val_scenes", "0"),
    *("--data.num_train_scenes", "28", "--experiment", "stopped", "--trainer.accumulate_grad_batches", "2"),
]
SSLAM = [sys.executable, "-m", "sslam"]


def start(command: Sequence[str], folder: Path) -> "subprocess.Popen[str]":
    """The process and its own in a group of their own; what they say goes into a file."""
    with (folder / "said.txt").open("a") as stream:
        return subprocess.Popen(
            command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def wait_for_steps(metrics: Path, least: int, process: "subprocess.Popen[str]") -> None:
    """Until so many steps are logged."""
    end = time.monotonic() + 200
    while not metrics.is_file() or len(metrics.read_text().splitlines()) <= least:
        assert process.poll() is None, (metrics.parents[3] / "said.txt").read_text()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def send(process: "subprocess.Popen[str]", signum: int, to_group: bool) -> None:
    if to_group:  # as a terminal does
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)


def check_a_stop(
    folder: Path, more: Sequence[str], signum: int, code: int, to_group: bool, launcher: Sequence[str] = SSLAM
) -> None:
    """Stopped and gone on with by the command that it prints, a run equals a straight one bit for bit."""
    flush = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"]
    flush += ["--trainer.logger.flush_logs_every_n_steps", "1", "--trainer.logger.version", "one"]
    stopped = start([*launcher, *FIT, *more, *flush, "--run_id", "stopped"], folder)
    wait_for_steps(folder / "logs/lightning_logs/one/metrics.csv", 3, stopped)
    sent = time.monotonic()
    send(stopped, signum, to_group)
    assert stopped.wait(60) == code, (folder / "said.txt").read_text()[-3000:]
    assert time.monotonic() - sent < 30
    said = (folder / "said.txt").read_text()
    assert "Traceback" not in said
    last = folder / "runs/stopped/stopped/checkpoints/last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert 0 < step < NUM_STEPS
    name = signal.Signals(signum).name
    assert f"sslam: {name} after step {step}, saved: runs/stopped/stopped/checkpoints/last.ckpt. Go on with" in said
    going_on = said.splitlines()[-1].split()
    assert going_on[:2] == ["sslam", "fit"]
    assert going_on[-4:] == ["--run_id", "stopped", "--ckpt_path", "last"]
    for command in ([*FIT, *more, *going_on[-4:]], [*FIT, *more, "--run_id", "straight"]):
        done = subprocess.run([*launcher, *command], cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    states = (torch.load(folder / f"runs/stopped/{run}/checkpoints/last.ckpt") for run in ("stopped", "straight"))
    assert_equal_states(*states)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED), (signal.SIGUSR1, REQUEUE)]
)
def test_fit__stopped_by_a_signal_goes_on_bit_for_bit(signum: int, code: int, tmp_path: Path) -> None:
    check_a_stop(tmp_path, ["--data.num_workers", "2"], signum, code, to_group=signum != signal.SIGUSR1)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_fit__two_processes_stop_after_the_same_step(signum: int, code: int, tmp_path: Path) -> None:
    """SIGTERM reaches the first process alone, Ctrl-C all."""
    more = ["--config", "experiments/overrides/ddp.yaml"]
    check_a_stop(tmp_path, more, signum, code, to_group=signum == signal.SIGINT)


@pytest.mark.slow
def test_fit__a_second_signal_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow_step.py").write_text(SLOW_STEP)
    fit = start([sys.executable, "slow_step.py", *FIT, "--run_id", "twice"], tmp_path)
    end = time.monotonic() + 100
    while not (tmp_path / "in_step").exists():
        assert fit.poll() is None, (tmp_path / "said.txt").read_text()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.05)
    fit.send_signal(signal.SIGTERM)
    fit.send_signal(signal.SIGTERM)  # of one ending, passed on by a launcher
    time.sleep(1.5)
    assert fit.poll() is None
    fit.send_signal(signal.SIGTERM)
    assert fit.wait(10) == -signal.SIGTERM
    assert not list((tmp_path / "runs/stopped/twice").glob("checkpoints/*"))


SLOW_STEP = """
import sys, time
from pathlib import Path
from sslam.__main__ import main
from sslam.methods import SSLAM

def training_step(self, *args):
    Path("in_step").touch()
    time.sleep(120)

SSLAM.training_step = training_step
sys.exit(main(sys.argv[1:]))
"""
