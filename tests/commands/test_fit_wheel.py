"""The installed package works without a checkout: the YAML files and the report's page are in the wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
# Not the editable install: says where the package was found, then runs it.
RUN = "import sys, sslam.__main__ as command; print(command.__file__); sys.exit(command.main(sys.argv[1:]))"


@pytest.mark.slow
def test_wheel__an_experiment_runs_outside_of_the_checkout(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(unpacked)
    shipped = {f"sslam/{path.relative_to(ROOT)}" for path in (ROOT / "experiments").rglob("*.yaml")}
    assert "sslam/experiments/pretrain.yaml" in shipped
    assert shipped <= names
    assert {"data_modules/__init__.py", "callbacks/__init__.py", "sslam/report/page.html"} <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    done = subprocess.run(
        [
            *(sys.executable, "-c", RUN, "fit", "--config", "experiments/pretrain.yaml"),
            *("--config", "experiments/overrides/smoke.yaml", "--trainer.callbacks", "[]"),
        ],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(unpacked / "sslam/__main__.py")
    assert len(list(elsewhere.glob("runs/pretrain/*/checkpoints/last.ckpt"))) == 1
