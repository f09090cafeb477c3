import json

import pytest
import torch

from benchmarks import contrastive_step

SMALL = ["--size", "small", "--seconds", "1", "--clips", "3", "--repeats", "2", "--threads", "1"]


def test_contrastive_step__prints_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    contrastive_step.main([*SMALL, "--repeats", "1", "--precision", "bf16"])
    output = capsys.readouterr().out
    for column in ("CPU s", "wall s", "min .. max", "of learn", "GFLOP", "precision bf16"):
        assert column in output
    rows = [line.split()[0] for line in output.splitlines() if line.strip()]
    assert [row for row in rows if row in contrastive_step.PARTS] == ["separate", "read", "features", "learn"]
    assert f"torch {torch.__version__}" in output


def test_contrastive_step__splits_steps_of_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    contrastive_step.main([*SMALL, "--json"])
    parts = json.loads(capsys.readouterr().out)["parts"]
    # Two steps on the fly, two from the cache.
    assert {part: len(row["cpu_s"]) for part, row in parts.items()} == {
        "separate": 2,
        "read": 2,
        "features": 4,
        "learn": 4,
    }
    for row in parts.values():
        assert len(row["wall_s"]) == len(row["of_learn"]) == len(row["cpu_s"])
        assert min(row["cpu_s"] + row["wall_s"] + row["of_learn"]) > 0
    assert parts["learn"]["of_learn"] == [1, 1, 1, 1]
    # Learning in the first and the third step was beside the separator.
    ratios = [
        part / learn for part, learn in zip(parts["separate"]["cpu_s"], parts["learn"]["cpu_s"][::2], strict=True)
    ]
    assert parts["separate"]["of_learn"] == pytest.approx(ratios)


def test_contrastive_step__flops_are_those_of_the_products(capsys: pytest.CaptureFixture[str]) -> None:
    contrastive_step.main([*SMALL, "--repeats", "1", "--json"])
    gflop = {part: row["gflop"] for part, row in json.loads(capsys.readouterr().out)["parts"].items()}
    assert gflop["read"] == 0
    # Whole clips of 1 s: 32 basis functions, width 32, hidden width 64, 4 blocks, M = 2; shares from one mean frame.
    frames = 800 - 1
    encoder, bottleneck, blocks, masks, decoder = 40 * 32, 32 * 32, 4 * 2 * 32 * 64, 2 * 32 * 32, 2 * 32 * 40
    separate = 3 * (frames * (encoder + bottleneck + blocks + masks + decoder) + 2 * 32)
    assert gflop["separate"] * 1e9 == pytest.approx(2 * separate)
    # Log-mels of 4 snippets of each clip: 257 frequency bins to 64 bands; Fourier transforms are not counted.
    assert gflop["features"] * 1e9 == pytest.approx(2 * 12 * 96 * 257 * 64)
    # CNN14 with blocks of 8, 16 and 32 channels, three times: forward, gradients of maps and of weights, but none of
    # the features. The heads and losses of three clips are small beside it.
    first = 96 * 64 * 9 * 8
    others = 96 * 64 * 9 * 8 * 8 + 48 * 32 * 9 * 16 * (8 + 16) + 24 * 16 * (9 * 32 * (16 + 32) + 32 * 128)
    assert gflop["learn"] * 1e9 == pytest.approx(2 * 12 * (2 * first + 3 * others), rel=0.02)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--clips", "1"], "--clips must be at least 2, got 1"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--seconds", "0.5"], "--seconds must be at least 1, longer than a snippet, got 0.5"),
        (["--seconds", "nan"], "--seconds must be at least 1, longer than a snippet, got nan"),
    ],
)
def test_contrastive_step__refuses_what_makes_no_sense(
    capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        contrastive_step.main(args)
    assert message in capsys.readouterr().err
