"""Interrupted ``sslam embed``: nothing is done twice, and the numbers are those of a straight run."""

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

from sslam.audio import FileProblem
from sslam.embedding import embed_files
from sslam.embedding.parts import LIST, FileResult, Parts
from sslam.finished_files import InputFile, read_list
from tests.commands.embed.conftest import BAD, GOOD_SECONDS, bad_files, embed, load, noise
from tests.embedding.conftest import RATE

GOOD = sorted(GOOD_SECONDS)


class InterruptionError(Exception):
    """Interrupts a run."""


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Counts how often each file is read, and interrupts with ``error`` before the batch number ``stop_at``."""
    state: dict[str, Any] = {"reads": Counter(), "batches": 0, "stop_at": None, "error": InterruptionError}
    read, embed_batch = embed_files.read, embed_files.embed_batch

    def counting_read(path: str, sample_rate: int) -> Any:
        state["reads"][path] += 1
        return read(path, sample_rate)

    def stopping_embed_batch(embedder: Any, batch: list[InputFile], *rest: Any) -> Any:
        if state["batches"] == state["stop_at"]:
            raise state["error"]
        state["batches"] += 1
        return embed_batch(embedder, batch, *rest)

    monkeypatch.setattr(embed_files, "read", counting_read)
    monkeypatch.setattr(embed_files, "embed_batch", stopping_embed_batch)
    monkeypatch.setattr(embed_files, "READ_AHEAD", 0)  # what was read ahead is read again
    return state


@pytest.mark.parametrize("more", [(), ("--level", "frame")], ids=["clip", "frame"])
@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_embed__goes_on_after_an_interruption_to_the_same_bits(
    recordings: Path, pre_trained: Path, tmp_path: Path, embedded: dict[str, Any], stop_at: int, more: tuple[str, ...]
) -> None:
    straight, output = tmp_path / "straight.npz", tmp_path / "all.npz"
    more = (*more, "--batch_size", "3")
    assert embed(recordings, pre_trained, straight, *more) == 0
    num_batches = embedded["batches"]
    assert num_batches > 4
    embedded.update(reads=Counter(), batches=0, stop_at=stop_at)
    with pytest.raises(InterruptionError):
        embed(recordings, pre_trained, output, *more)
    assert not output.exists()
    embedded["stop_at"] = None
    assert embed(recordings, pre_trained, output, *more) == 0
    # No file twice, but those that had been read for the batch that was not embedded.
    assert embedded["batches"] == num_batches
    assert sum(embedded["reads"].values()) <= len(GOOD) + len(BAD) + 3
    expected, arrays = load(straight), load(output)
    assert expected.keys() == arrays.keys()
    assert all(np.array_equal(expected[name], arrays[name]) for name in expected)
    assert bad_files(output) == bad_files(straight)
    assert not output.with_name("all.npz.parts").exists()


def test_embed__control_c_says_that_it_can_go_on(
    recordings: Path, pre_trained: Path, tmp_path: Path, embedded: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    embedded.update(stop_at=2, error=KeyboardInterrupt)
    assert embed(recordings, pre_trained, tmp_path / "all.npz", "--batch_size", 3) == 130
    assert "What is finished is kept; the same command goes on from there." in capsys.readouterr().err
    embedded["stop_at"] = None
    assert embed(recordings, pre_trained, tmp_path / "all.npz", "--batch_size", 3) == 0
    assert "of 16 files are finished already" in capsys.readouterr().err


def test_embed__too_little_memory_is_explained(
    recordings: Path, pre_trained: Path, tmp_path: Path, embedded: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    embedded.update(stop_at=1, error=torch.OutOfMemoryError)
    assert embed(recordings, pre_trained, tmp_path / "all.npz", "--batch_size", 3) == 1
    assert "The same command with a smaller --batch_size goes on." in capsys.readouterr().err
    embedded["stop_at"] = None
    assert embed(recordings, pre_trained, tmp_path / "all.npz", "--batch_size", 2) == 0
    assert len(load(tmp_path / "all.npz")["files"]) == len(GOOD)


@pytest.mark.slow
def test_embed__killed_and_started_again_equals_a_straight_run(
    recordings: Path, pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real SIGKILL, in the middle of the work."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from sslam.commands import embed as command\n"
        "from sslam.embedding import embed_files\n"
        "embed_files.KEEP_EVERY_SECONDS = 0\n"
        "embed_batch = embed_files.embed_batch\n"
        "def slowly(*args):\n"
        "    time.sleep(0.5)\n"
        "    return embed_batch(*args)\n"
        "embed_files.embed_batch = slowly\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    straight, output = tmp_path / "straight.npz", tmp_path / "all.npz"
    parts = output.with_name("all.npz.parts")
    args = [recordings, "--checkpoint", pre_trained, "--output", output, "--device", "cpu", "--batch_size", "2"]
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, args)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while len(list(parts.glob("part-*.npz"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(parts.glob("part-*.npz"))) >= 3
    assert not output.exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert embed(recordings, pre_trained, output, "--batch_size", 2) == 0
        assert "of 16 files are finished already" in capsys.readouterr().err
        assert embed(recordings, pre_trained, straight, "--batch_size", 2) == 0
    finally:
        torch.set_num_threads(threads)
    expected, arrays = load(straight), load(output)
    assert all(np.array_equal(expected[name], arrays[name]) for name in expected)
    assert bad_files(output) == bad_files(straight)


def interrupted(recordings: Path, checkpoint: Path, output: Path, embedded: dict[str, Any]) -> None:
    embedded.update(stop_at=2)
    with pytest.raises(InterruptionError):
        embed(recordings, checkpoint, output, "--batch_size", 3)
    embedded.update(stop_at=None)


def test_embed__does_not_mix_the_work_of_different_runs(
    recordings: Path,
    pre_trained: Path,
    classifier: Path,
    tmp_path: Path,
    embedded: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "all.npz"
    interrupted(recordings, pre_trained, output, embedded)
    assert embed(recordings, pre_trained, output, "--pooling", "mean") == 2
    assert "of which pooling was cls and is now mean. Give what was given then" in capsys.readouterr().err
    assert embed(recordings, classifier, output) == 2
    assert "checkpoint_sha256 was " in capsys.readouterr().err
    assert embed(recordings, pre_trained, output) == 0


def test_embed__new_and_changed_files_join_and_lost_ones_are_left_out(
    recordings: Path, pre_trained: Path, tmp_path: Path, embedded: dict[str, Any]
) -> None:
    straight, output = tmp_path / "straight.npz", tmp_path / "all.npz"
    interrupted(recordings, pre_trained, output, embedded)
    _, entries, _ = read_list(tmp_path / "all.npz.parts" / LIST)
    finished = set(entries)
    assert {str(recordings / name) for name in ("long.flac", "d.ogg")} <= finished
    soundfile.write(recordings / "new.wav", noise(1.0, seed=9), RATE)
    soundfile.write(recordings / "long.flac", noise(5.0, seed=9), RATE)
    (recordings / "d.ogg").unlink()
    embedded["reads"].clear()
    assert embed(recordings, pre_trained, output) == 0
    assert {str(recordings / name) for name in ("new.wav", "long.flac")} <= embedded["reads"].keys()
    assert finished & embedded["reads"].keys() == {str(recordings / "long.flac")}
    assert embed(recordings, pre_trained, straight) == 0
    expected, arrays = load(straight), load(output)
    assert arrays["files"].tolist() == expected["files"].tolist()
    assert arrays["seconds"].tolist() == expected["seconds"].tolist()
    np.testing.assert_allclose(arrays["embeddings"], expected["embeddings"], rtol=1e-4, atol=1e-5)


def test_embed__damaged_work_is_named(
    recordings: Path, pre_trained: Path, tmp_path: Path, embedded: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all.npz"
    interrupted(recordings, pre_trained, output, embedded)
    (part,) = output.with_name("all.npz.parts").glob("part-*.npz")
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    assert embed(recordings, pre_trained, output, "--batch_size", 3) == 2
    assert f"{part} is damaged. Remove it, and its files are embedded again." in capsys.readouterr().err
    part.unlink()
    assert embed(recordings, pre_trained, output, "--batch_size", 3) == 0
    assert len(load(output)["files"]) == len(GOOD)


def test_embed__a_damaged_list_and_a_strange_folder_are_named(
    recordings: Path, pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "all.npz.parts"
    folder.mkdir()
    (folder / "precious.txt").touch()
    assert embed(recordings, pre_trained, tmp_path / "all.npz") == 2
    error = capsys.readouterr().err
    assert f"{folder} holds something else than the work of an earlier run. Choose another output, or move it" in error
    (folder / LIST).write_text('{"version": 1')
    assert embed(recordings, pre_trained, tmp_path / "all.npz") == 2
    assert f"{LIST} is damaged. Choose another output, or remove {folder}." in capsys.readouterr().err
    assert (folder / "precious.txt").exists()


def test_parts__a_kill_while_a_part_is_written_leaves_the_others(tmp_path: Path) -> None:
    files = [InputFile(name, name, 1, 1) for name in "abc"]
    parts = Parts(tmp_path / "parts" / LIST, {"settings": {"level": "clip"}})
    parts.keep([FileResult(files[2], 1.0, {"embedding": np.full((1, 3), 2.0, np.float32)})])
    (tmp_path / "parts" / ".part-00000001.npz.1.partial").write_bytes(b"PK half")
    again = Parts(tmp_path / "parts" / LIST, {"settings": {"level": "clip"}})
    assert again.left(files) == files[:2]
    rows = np.stack([np.full(3, 0.0), np.full(3, 0.5)]).astype(np.float32)
    bad = FileProblem("b", "silent", "skipped")
    again.keep([FileResult(files[0], 2.0, {"embedding": rows}), FileResult(files[1], problem=bad)])
    merged = again.merge(files)
    assert merged.num_rows.tolist() == [2, 0, 1]
    assert merged.seconds.tolist() == [2.0, 0.0, 1.0]
    assert merged.columns["embedding"][:, 0].tolist() == [0.0, 0.5, 2.0]
    assert again.problems(files) == [bad]


def test_parts__rows_of_a_file_that_was_done_again_count_once(tmp_path: Path) -> None:
    files = [InputFile(name, name, 1, 1) for name in "ab"]
    parts = Parts(tmp_path / "parts" / LIST, {"settings": {}})
    rows = {"embedding": np.array([[1.0], [2.0]], np.float32)}
    parts.keep([FileResult(files[0], 1.0, rows), FileResult(files[1], 1.0, {"embedding": np.full((1, 1), 3.0)})])
    changed = [InputFile("a", "a", 2, 2), files[1]]
    assert parts.left(changed) == changed[:1]
    parts.keep([FileResult(changed[0], 0.5, {"embedding": np.full((1, 1), 4.0)})])
    merged = Parts(tmp_path / "parts" / LIST, {"settings": {}}).merge(changed)
    assert merged.columns["embedding"][:, 0].tolist() == [4.0, 3.0]
