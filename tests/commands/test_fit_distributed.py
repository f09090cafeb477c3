"""Two processes on one machine train with the ddp override."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.distributed
def test_fit__two_processes_share_one_run_folder(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "sslam", "fit"),
        *("--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"),
        *("--config", "experiments/overrides/ddp.yaml", "--trainer.max_steps", "3"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MEMBER: 2/2" in done.stderr
    (folder,) = (tmp_path / "runs/pretrain").iterdir()
    assert {"config.yaml", "metrics.csv", "checkpoints", "pictures"} <= {path.name for path in folder.iterdir()}
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.distributed
def test_fit__torchrun_shares_one_run_folder(tmp_path: Path) -> None:
    """Every process makes up a run id of its own here; the first one's counts."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(
            "-m",
            "sslam",
            "fit",
            "--config",
            "experiments/pretrain.yaml",
            "--config",
            "experiments/overrides/smoke.yaml",
        ),
        *("--config", "experiments/overrides/ddp.yaml", "--trainer.callbacks", "[]"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "runs/pretrain").iterdir()
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.distributed
def test_fit__a_mistake_stops_all_processes(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "sslam", "fit"),
        *("--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"),
        *("--config", "experiments/overrides/ddp.yaml", "--data.num_train_scenes", "3"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "sslam fit: 3 training clips do not fill one batch of 2 on 2 process(es)." in done.stderr
