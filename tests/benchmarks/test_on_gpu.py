"""The script for the first GPU, as far as a CPU can try it."""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import on_gpu

TINY = argparse.Namespace(size="tiny", device="cpu")


def test_on_gpu__without_one_it_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu.main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "on_gpu: torch sees no CUDA device here, so there is nothing to measure (exit code 2).\n"


def test_on_gpu__parity_is_of_all_networks_and_sees_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    result = on_gpu.parity(TINY)
    assert result["is_good"]
    assert set(result["fp32"].values()) == {0.0}  # the same device
    assert {"KaldiFbank", "LogMel", "AudioViT", "TDCN", "MixIT loss", "CNN14", "NT-Xent"} < set(result["bf16"])
    assert 0 < result["bf16"]["AudioViT"] < 0.05
    monkeypatch.setitem(on_gpu.TOLERANCE, "bf16", 1e-9)
    assert not on_gpu.parity(TINY)["is_good"]


def test_on_gpu__parts_run_on_the_steps_of_all_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert on_gpu.main(["--part", "host_syncs", "--size", "tiny", "--device", "cpu"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said == {"is_good": True, "SSLAM": None, "MixIT": None, "contrastive": None}
    rows = on_gpu.profile(TINY)["milliseconds"]
    assert rows[0]["ms"] >= rows[-1]["ms"] >= 0
    assert any("mm" in row["operation"] for row in rows)


def test_on_gpu__writes_what_it_has_after_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "on_gpu.json"
    written: list[set[str]] = []
    given: list[float] = []

    def part(name: str, *_: Any) -> dict[str, Any]:
        written.append(set(json.loads(output.read_text())) if output.exists() else set())
        return {"is_good": name != "host_syncs"}

    def too_long(command: list[str], seconds: float) -> Any:
        given.append(seconds)
        raise subprocess.TimeoutExpired(command, seconds)

    monkeypatch.setattr(on_gpu, "own_part", part)
    monkeypatch.setattr(on_gpu, "benchmark", too_long)
    monkeypatch.setattr(on_gpu, "run_of_fit", lambda *_: {"wait_fraction": 0.01})
    code = on_gpu.main(["--size", "tiny", "--device", "cpu", "--output", str(output), "--minutes", "2"])
    assert code == 1
    result = json.loads(output.read_text())
    assert set(result) == {"machine", "settings", "parity", "host_syncs", "steps", "runs", "profile"}
    assert result["steps"]["contrastive"] == {"is_good": False, "error": "the time did not suffice"}
    assert result["runs"] == {"SSLAM stage 1": {"wait_fraction": 0.01}}
    assert "parity" in written[1]
    assert all(0 < seconds <= 120 for seconds in given)
