import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "separation_step.py"
TINY = ["--size", "tiny", "--seconds", "0.1", "--repeats", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def separation_step() -> ModuleType:
    spec = importlib.util.spec_from_file_location("separation_step", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_separation_step__prints_all_columns(separation_step: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    separation_step.main([*TINY, "--num_sources", "3"])
    output = capsys.readouterr().out
    for column in ("CPU s", "wall s", "min .. max", "peak GiB", "GFLOP", "x product", "The authors' code"):
        assert column in output
    rows = [line.split() for line in output.splitlines()]
    for case, clips in (("forward", "2"), ("step", "1")):
        ours, authors = (row for row in rows if row[:1] == [case])
        assert ours[1:3] == ["3", clips]
        assert authors[1] == clips
    assert f"torch {torch.__version__}" in output


@pytest.mark.parametrize("options", [[], ["--checkpoint_blocks"], ["--precision", "bf16"]])
def test_separation_step__flops_are_those_of_the_products(
    separation_step: ModuleType, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    threads = torch.get_num_threads()
    results = {}
    try:
        for case in ("forward", "step"):
            separation_step.main([*TINY, *options, "--num_sources", "2", "--clips", "3", "3", "--case", case])
            results[case] = json.loads(capsys.readouterr().out)
    finally:
        torch.set_num_threads(threads)
    frames = (1600 - 40) // 20 + 1
    bottleneck, blocks, mask, decoder, shares = 32 * 32, 4 * 2 * 32 * 64, 32 * 64, 2 * 32 * 40, 2 * 32 / frames
    products = 2 * 3 * frames * (bottleneck + blocks + mask + decoder + shares)
    encoder = 2 * 3 * frames * 40 * 32
    assert results["forward"]["gflop"] * 1e9 == pytest.approx(products + encoder)
    # The gradients cost twice the forward pass, less that of the waveform. Of a block that was not kept, the first of
    # the two products is computed again; the second one's output is not needed.
    again = 3 * frames * blocks if "--checkpoint_blocks" in options else 0
    # Energies and overlaps of two mixtures and two estimates, and the remix with its gradient: 16 products of 1600.
    loss = 2 * 3 * 16 * 1600
    assert results["step"]["gflop"] * 1e9 == pytest.approx(3 * products + 2 * encoder + again + loss, rel=1e-4)
    for result in results.values():
        assert len(result["cpu_s"]) == len(result["wall_s"]) == 2
        assert min(result["cpu_s"] + result["wall_s"]) > 0
        assert result["peak_memory_gib"] > 0.1
        assert result["times_product"] > 1


def test_separation_step__refuses_what_makes_no_sense(
    separation_step: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for args, message in (
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--clips", "2", "0"], "--clips must be at least 1 each, got 0"),
        (["--num_sources", "2", "-1"], "--num_sources must be at least 1 each, got -1"),
    ):
        with pytest.raises(SystemExit):
            separation_step.main(args)
        assert message in capsys.readouterr().err
