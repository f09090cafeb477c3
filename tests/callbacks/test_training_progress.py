import io
import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import TrainingProgress


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def lines_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if "it/s" in line or "s/it" in line]


def test_training_progress__a_log_file_gets_plain_lines(
    tiny_sslam: Any, clips: Any, fit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny_sslam(), clips, [TrainingProgress(seconds_between_lines=0)], enable_progress_bar=True)
    output = capsys.readouterr().out
    assert "\r" not in output
    assert "\x1b" not in output
    lines = lines_of(output)
    assert len(lines) == 8
    assert re.match(r"stage 1/2 \(masked latents\): 1/8 \[00:0.*loss=\d", lines[0])
    assert re.match(r"stage 2/2 \(mixtures\): 8/8 \[", lines[-1])


def test_training_progress__lines_are_seconds_apart(
    tiny_sslam: Any, clips: Any, fit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny_sslam(), clips, [TrainingProgress(seconds_between_lines=1000)], enable_progress_bar=True)
    lines = lines_of(capsys.readouterr().out)
    assert [re.search(r" (\d/8) ", line)[1] for line in lines] == ["1/8", "8/8"]  # type: ignore[index]


def test_training_progress__a_terminal_gets_one_bar_for_the_run(
    tiny_sslam: Any, clips: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    fit(tiny_sslam(), clips, [TrainingProgress()], enable_progress_bar=True)
    states = terminal.getvalue().split("\r")
    assert "Epoch" not in terminal.getvalue()
    assert "0/8" in states[1]
    assert "stage 1/2 (masked latents)" in states[1]
    assert any("8/8" in state and "loss=" in state for state in states[-3:])
    # Two epochs of four batches: the count goes on.
    counts = [int(match[1]) for state in states if (match := re.search(r" (\d)/8 ", state))]
    assert counts == sorted(counts)


def test_training_progress__a_resumed_run_starts_at_its_step(
    tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="middle")
    fit(tiny_sslam(), clips, [checkpoint], enable_checkpointing=True, max_steps=5)
    capsys.readouterr()
    progress = TrainingProgress(seconds_between_lines=0)
    fit(tiny_sslam(), clips, [progress], ckpt_path=tmp_path / "middle.ckpt", enable_progress_bar=True)
    lines = lines_of(capsys.readouterr().out)
    assert "6/8" in lines[0]
    assert len(lines) == 3


def test_training_progress__negative_seconds_are_refused() -> None:
    with pytest.raises(ValueError, match="seconds_between_lines must be at least 0, got -1"):
        TrainingProgress(seconds_between_lines=-1)
