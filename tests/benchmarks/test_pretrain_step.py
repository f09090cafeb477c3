import json

import pytest
import torch

from benchmarks import pretrain_step

TINY = ["--size=tiny", "--frames=128", "--clones=2", "--repeats=2", "--warmup=1", "--threads=1", "--matmul_size=64"]


def test_pretrain_step__prints_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    pretrain_step.main(TINY)
    output = capsys.readouterr().out
    for column in ("wall ms", "min .. max", "CPU s", "GFLOP", "TFLOP/s", "of peak", "Peak memory", "Peak speed"):
        assert column in output
    rows = [line.split()[0] for line in output.splitlines() if line.strip()]
    for part in ("student", "teacher", "decoder", "backward", "optimizer", "other", "total"):
        assert part in rows
    assert f"torch {torch.__version__}" in output


def test_pretrain_step__parts_add_up_and_flops_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    pretrain_step.main([*TINY, "--stage", "1", "--repeats", "1", "--json"])
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


def test_pretrain_step__stage_2_needs_a_partner(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretrain_step.main(["--clips", "1"])
    assert "--clips must be at least 2 in stage 2" in capsys.readouterr().err
