import json

import pytest
import torch

from benchmarks import separation_step

TINY = ["--size", "tiny", "--seconds", "0.1", "--repeats", "2", "--threads", "1"]


def test_separation_step__prints_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
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
    capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    results = {}
    for case in ("forward", "step"):
        separation_step.main([*TINY, *options, "--num_sources", "2", "--clips", "3", "3", "--case", case])
        results[case] = json.loads(capsys.readouterr().out)
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


def test_separation_step__refuses_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    for args, message in (
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--clips", "2", "0"], "--clips must be at least 1 each, got 0"),
        (["--num_sources", "2", "-1"], "--num_sources must be at least 1 each, got -1"),
    ):
        with pytest.raises(SystemExit):
            separation_step.main(args)
        assert message in capsys.readouterr().err
