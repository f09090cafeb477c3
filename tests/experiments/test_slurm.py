"""The batch script, with a `srun` and a `scontrol` that stand for SLURM's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.distributed
def test_pretrain_sbatch__a_run_that_is_told_to_end_is_requeued_and_ends(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (tools / "scontrol").write_text(f'#!/bin/bash\necho localhost\necho "$@" >> {tmp_path}/scontrol.txt\n')
    torchrun = f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    (tools / "torchrun").write_text(torchrun)
    for tool in tools.iterdir():
        tool.chmod(0o755)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": "123",
        "SLURM_GPUS_ON_NODE": "2",
    }
    small = ["--config", "experiments/overrides/smoke.yaml", "--trainer.num_nodes", "1", "--trainer.devices", "2"]
    small += ["--trainer.callbacks", "[]", "--data.num_val_scenes", "0", "--data.num_train_scenes", "40"]
    small += ["--checkpoint.every_n_train_steps", "1", "--checkpoint.every_minutes", "0"]
    small += ["--trainer.strategy.timeout", "0:02:00"]
    checkpoints = tmp_path / "runs/pretrain/123/checkpoints"

    def script(steps: int) -> "subprocess.Popen[str]":
        log = (tmp_path / "log.txt").open("a")
        command = ["bash", "experiments/slurm/pretrain.sbatch", *small, "--trainer.max_steps", str(steps)]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, text=True, start_new_session=True
        )

    job = script(100_000)
    end = time.monotonic() + 240
    while not (checkpoints / "last.ckpt").exists():
        assert job.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
        assert time.monotonic() < end, (tmp_path / "log.txt").read_text()[-3000:]
        time.sleep(0.2)
    (shell,) = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()[:1]
    agents = subprocess.run(["pgrep", "-P", shell], capture_output=True, text=True).stdout.split()
    for process in (shell, *agents):  # not the batch script itself
        os.kill(int(process), signal.SIGUSR1)
    assert job.wait(120) == 75, (tmp_path / "log.txt").read_text()[-3000:]
    assert (tmp_path / "scontrol.txt").read_text().splitlines()[-1] == "requeue 123"
    said = (tmp_path / "log.txt").read_text()
    assert "SIGUSR1 after step" in said
    step = int(said.split("SIGUSR1 after step ")[1].split(",")[0])
    assert script(step + 1).wait(240) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert (checkpoints / f"step={step + 1:08d}.ckpt").exists()
