"""Interrupted ``sslam separate``: what is finished is not done again, and nothing is left by halves."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sslam.separation import separate_files
from tests.commands.separate.conftest import BAD, GOOD, bad_files, read_sources, separate
from tests.separation.conftest import RATE, noise, save_separator, tiny_separator


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Counts how often each file is read, and interrupts with ``error`` in file number ``stop_at``."""
    state: dict[str, Any] = {"reads": Counter(), "files": 0, "stop_at": None, "error": KeyboardInterrupt}
    read, write_sources = separate_files.read, separate_files.write_sources

    def counting_read(path: str, separator: Any) -> Any:
        state["reads"][path] += 1
        return read(path, separator)

    def stopping_write(paths: Any, audio: Any, pieces: Any) -> None:
        write_sources(paths, audio, pieces)
        if state["files"] == state["stop_at"]:
            raise state["error"]
        state["files"] += 1

    monkeypatch.setattr(separate_files, "read", counting_read)
    monkeypatch.setattr(separate_files, "write_sources", stopping_write)
    return state


@pytest.mark.parametrize("stop_at", [0, 1, 5])
def test_separate__control_c_keeps_what_is_finished(
    recordings: Path, checkpoint: Path, tmp_path: Path, finished: dict[str, Any], stop_at: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    straight, output = tmp_path / "straight", tmp_path / "separated"
    assert separate(recordings, checkpoint, straight, "--batch_size", 1) == 0
    finished.update(files=0, stop_at=stop_at, reads=Counter())
    assert separate(recordings, checkpoint, output, "--batch_size", 1) == 130
    assert "Interrupted. What is finished is kept; the same command goes on" in capsys.readouterr().err
    assert not list(output.rglob("*.partial"))
    assert len(list(output.rglob("*_source?.wav"))) == 2 * stop_at
    finished["stop_at"] = None
    assert separate(recordings, checkpoint, output, "--batch_size", 1) == 0
    if stop_at:
        assert "of 18 files are finished already" in capsys.readouterr().err
    assert finished["files"] == len(GOOD)
    # Once each, but for the file that was interrupted.
    assert sorted(finished["reads"].values()) == [1] * (len(GOOD) + len(BAD) - 1) + [2]
    for name in GOOD:
        assert np.array_equal(read_sources(output, name), read_sources(straight, name))
    assert bad_files(output) == bad_files(straight)


@pytest.mark.slow
def test_separate__killed_and_started_again_equals_a_straight_run(
    recordings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real SIGKILL, while sources are written."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from sslam.commands import separate as command\n"
        "from sslam.separation import separate_files\n"
        "write_sources = separate_files.write_sources\n"
        "def slowly(*args):\n"
        "    write_sources(*args)\n"
        "    time.sleep(0.3)\n"
        "separate_files.write_sources = slowly\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    straight, output = tmp_path / "straight", tmp_path / "separated"
    args = [recordings, "--checkpoint", checkpoint, "--output", output, "--device", "cpu", "--window_seconds", 2]
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, args), "--batch_size", "1"], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while len(list(output.rglob("*_source2.wav"))) < 4 and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*_source?.wav")}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert separate(recordings, checkpoint, output, "--batch_size", 1) == 0
        assert "of 18 files are finished already" in capsys.readouterr().err
        assert separate(recordings, checkpoint, straight, "--batch_size", 1) == 0
    finally:
        torch.set_num_threads(threads)
    # The kill may have come between the last file's names and its line in the list.
    redone = [path for path, changed in times.items() if path.stat().st_mtime_ns != changed]
    assert len(times) >= 8
    assert len(redone) <= 2
    assert not list(output.rglob("*.partial"))
    for name in GOOD:
        assert np.array_equal(read_sources(output, name), read_sources(straight, name))
    assert bad_files(output) == bad_files(straight)


def test_separate__new_files_join_and_changed_or_lost_ones_are_done_again(
    recordings: Path, checkpoint: Path, tmp_path: Path, finished: dict[str, Any]
) -> None:
    output = tmp_path / "separated"
    assert separate(recordings, checkpoint, output) == 0
    finished["reads"].clear()
    soundfile.write(recordings / "new.wav", noise(0.3).T, RATE)
    soundfile.write(recordings / "nan.wav", noise(0.4).T, RATE)  # was bad
    (output / "sub" / "low_source2.wav").unlink()
    assert separate(recordings, checkpoint, output) == 0
    assert finished["reads"] == {str(recordings / name): 1 for name in ("new.wav", "nan.wav", "sub/low.wav")}
    assert str(recordings / "nan.wav") not in bad_files(output)
    assert str(recordings / "click.wav") in bad_files(output)


def test_separate__does_not_mix_the_work_of_different_runs(
    recordings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, mono = tmp_path / "separated", recordings / "mono.wav"
    assert separate(mono, checkpoint, output) == 0
    other = save_separator(tmp_path / "other.ckpt", tiny_separator(seed=1))
    assert separate(mono, other, output) == 2
    error = capsys.readouterr().err
    assert f"{output} holds the work of an earlier run, of which checkpoint_sha256 was " in error
    assert "Give what was given then, choose another output, or remove the folder." in error
    assert separate(mono, checkpoint, output, "--window_seconds", 3) == 2
    assert "of which window_seconds was 2.0 and is now 3.0" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    soundfile.write(tmp_path / "elsewhere" / "mono.wav", noise(0.5).T, RATE)
    before = read_sources(output, "mono")
    assert separate(tmp_path / "elsewhere", checkpoint, output) == 2
    assert f"{output} holds the sources of {mono} under the names" in capsys.readouterr().err
    assert np.array_equal(read_sources(output, "mono"), before)


def test_separate__a_list_cut_off_by_a_kill_is_repaired_and_a_damaged_one_named(
    recordings: Path, checkpoint: Path, tmp_path: Path, finished: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    output, files = tmp_path / "separated", [recordings / "mono.wav", recordings / "twin.wav"]
    assert separate(files, checkpoint, output) == 0
    state = output / "separation.jsonl"
    whole = state.read_text()
    state.write_text(whole[:-5])
    finished["reads"].clear()
    assert separate(files, checkpoint, output) == 0
    assert finished["reads"] == {str(files[1]): 1}
    assert state.read_text() == whole
    for damaged in ("", "{}\n", "no json\n" + whole, whole + "[]\n"):
        state.write_text(damaged)
        assert separate(files, checkpoint, output) == 2
        assert f"{state} is damaged. Choose another output, or remove {output}." in capsys.readouterr().err


def test_separate__a_full_disk_is_explained(
    recordings: Path, checkpoint: Path, tmp_path: Path, finished: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    finished.update(stop_at=1, error=soundfile.SoundFileRuntimeError("no space"))
    assert separate(recordings, checkpoint, tmp_path / "separated", "--batch_size", 1) == 2
    assert "cannot be written (no space). Make room; the same command goes on." in capsys.readouterr().err
    finished.update(stop_at=finished["files"], error=torch.OutOfMemoryError)
    assert separate(recordings, checkpoint, tmp_path / "separated", "--batch_size", 1) == 1
    assert "The same command with a smaller --batch_size goes on." in capsys.readouterr().err
