import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pretrain_step.py"
TINY = [
    "--size",
    "tiny",
    "--frames",
    "128",
    "--clones",
    "2",
    "--repeats",
    "2",
    "--warmup",
    "1",
    "--threads",
    "1",
    "--matmul-size",
    "64",
]


@pytest.fixture(scope="module")
def pretrain_step() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_step", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pretrain_step__prints_all_columns(pretrain_step: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        pretrain_step.main(TINY)
    finally:
        torch.set_num_threads(threads)
    output = capsys.readouterr().out
    for column in ("wall ms", "min .. max", "CPU s", "GFLOP", "TFLOP/s", "of peak", "Peak memory", "Peak speed"):
        assert column in output
    rows = [line.split()[0] for line in output.splitlines() if line.strip()]
    for part in ("student", "teacher", "decoder", "backward", "optimizer", "other", "total"):
        assert part in rows
    assert f"torch {torch.__version__}" in output


def test_pretrain_step__parts_add_up_and_flops_are_right(
    pretrain_step: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        pretrain_step.main([*TINY, "--stage", "1", "--repeats", "1", "--json"])
    finally:
        torch.set_num_threads(threads)
    result = json.loads(capsys.readouterr().out)
    parts = result["parts"]
    total = parts.pop("total")
    assert sum(part["wall_ms"] for part in parts.values()) == pytest.approx(total["wall_ms"])
    assert all(part["wall_ms"] > 0 for part in parts.values())
    assert result["peak_memory_gib"] > 0
    # 2 clips x 64 patches of 16 x 16; width 64; 2 layers with 65 tokens: projections 24 T D^2, attention 4 T^2 D.
    embedding = 2 * 2 * 64 * 256 * 64
    layers = 2 * 2 * (24 * 65 * 64**2 + 4 * 65**2 * 64)
    assert parts["teacher"]["gflop"] * 1e9 == embedding + layers
    # 4 masked views of 12 patches (20 % of 64) and CLS.
    layers = 4 * 2 * (24 * 13 * 64**2 + 4 * 13**2 * 64)
    assert parts["student"]["gflop"] * 1e9 == embedding + layers
    # 6 convolutions 3 x 3 with 16 groups, and a projection.
    decoder = 4 * 64 * (6 * 2 * 9 * 64 * 4 + 2 * 64**2)
    assert parts["decoder"]["gflop"] * 1e9 == decoder
    # Twice the forward passes, less the gradient of the patches' input; attention's backward repeats a product.
    attention = 4 * 2 * 2 * 13**2 * 64
    assert parts["backward"]["gflop"] * 1e9 == 2 * (layers + decoder) + embedding + attention


def test_pretrain_step__stage_2_needs_a_partner(pretrain_step: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretrain_step.main(["--clips", "1"])
    assert "--clips must be at least 2 in stage 2" in capsys.readouterr().err
