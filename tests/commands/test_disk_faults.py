"""A disk that is full or read-only, and a folder that goes away: a few lines, exit code 2, and the same again works."""

import builtins
import errno
import io
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sslam.__main__ import main
from sslam.commands import evaluate
from tests.checkpoints.published_files import pre_trained as published_state
from tests.checkpoints.published_files import save_published
from tests.commands.conftest import exit_code
from tests.embedding.conftest import pre_trained
from tests.report.conftest import write_run
from tests.separation.conftest import checkpoint

__all__ = ["checkpoint", "pre_trained", "write_run"]

MOST_LINES = 12


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file grows beyond this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing is made or written in a folder, whoever asks: rights do not hold root up."""
    real: dict[Any, Callable[..., Any]] = {}

    def refuse(path: object) -> None:
        if isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def guarded(original: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if writes(*args, **kwargs):
                refuse(path)
            return original(path, *args, **kwargs)

        return call

    def mode_writes(mode: str = "r", *_: Any, **__: Any) -> bool:
        return bool(set(mode) & set("wax+"))

    def flags_write(flags: int = 0, *_: Any, **__: Any) -> bool:
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    writers: list[tuple[Any, str, Callable[..., bool]]] = [
        *((module, "open", mode_writes) for module in (builtins, io)),
        (os, "open", flags_write),
        *((os, name, lambda *_, **__: True) for name in ("mkdir", "replace", "rename", "unlink", "remove", "symlink")),
    ]
    for module, name, writes in writers:
        real[module, name] = getattr(module, name)
        setattr(module, name, guarded(real[module, name], writes))
    try:
        yield
    finally:
        for (module, name), original in real.items():
            setattr(module, name, original)


@pytest.fixture
def commands(
    tmp_path: Path, pre_trained: Path, checkpoint: Path, write_run: Callable[..., Path]
) -> dict[str, tuple[list[str], Path]]:
    """A command line for each command that writes, all into ``out``, and a file that it ends with."""
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    out.mkdir()
    for number in range(3):
        noise = 0.1 * np.random.default_rng(number).standard_normal(8000)
        soundfile.write(clips / f"{number}.wav", noise, 16_000)
    published = save_published(
        tmp_path / "published.pt", published_state(width=64, depth=1, decoder_depth=1), num_heads=1
    )
    write_run("one")
    write_run("two", 3.0, label="other")
    encoder = ["--checkpoint", str(pre_trained), "--device", "cpu"]
    separator = ["--checkpoint", str(checkpoint), "--device", "cpu"]
    return {
        "convert": ([str(published), str(out / "ours.safetensors")], out / "ours.safetensors"),
        "convert --to published": ([str(published), str(out / "theirs.pt"), "--to", "published"], out / "theirs.pt"),
        "report": ([str(tmp_path / "runs"), "--output", str(out / "page")], out / "page/index.html"),
        "embed": (
            [str(clips), *encoder, "--output", str(out / "all.npz"), "--num_workers", "1"],
            out / "all.npz",
        ),
        "separate": ([str(clips), *separator, "--output", str(out / "sources")], out / "sources/2_source1.wav"),
        "separate --cache": ([str(clips), *separator, "--cache", str(out / "cache")], out / "cache"),
        "export": ([str(pre_trained), str(out / "model"), "--license", "cc-by-4.0"], out / "model/README.md"),
    }


NAMES = ["convert", "convert --to published", "report", "embed", "separate", "separate --cache", "export"]


def check_fault(command: str, args: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What it says, which is short."""
    assert exit_code(main, [command.split()[0], *args]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    lines = (said.out + said.err).strip().splitlines()
    assert len(lines) <= MOST_LINES, lines
    return lines[-1]


@pytest.mark.parametrize("num_bytes", [10, 1500])
@pytest.mark.parametrize("command", NAMES)
def test_commands__a_full_disk(
    command: str, num_bytes: int, commands: dict[str, tuple[list[str], Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    args, result = commands[command]
    warm_up(command)
    with largest_file(num_bytes):
        said = check_fault(command, args, capsys)
    # libsndfile and NumPy do not say why.
    assert any(reason in said for reason in ("File too large", "cannot be written", "No space left")), said
    assert not result.is_file()
    assert exit_code(main, [command.split()[0], *args]) == 0, capsys.readouterr().err
    assert result.exists()
    assert not list(result.parent.glob("**/*.partial"))


@pytest.mark.parametrize("command", NAMES)
def test_commands__a_folder_that_is_read_only(
    command: str,
    commands: dict[str, tuple[list[str], Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args, result = commands[command]
    warm_up(command)
    with read_only(tmp_path / "out"):
        said = check_fault(command, args, capsys)
    assert "ead-only file system" in said, said
    assert exit_code(main, [command.split()[0], *args]) == 0, capsys.readouterr().err
    assert result.exists()


def warm_up(command: str) -> None:
    """What is compiled on first use is kept in files, too."""
    if command.startswith("separate"):
        from tests.separation.conftest import tiny_separator

        with torch.no_grad():
            tiny_separator()(torch.zeros(1, 1600))


@pytest.mark.parametrize("command", ["embed", "separate"])
def test_commands__the_output_goes_away_in_between(
    command: str,
    commands: dict[str, tuple[list[str], Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args, result = commands[command]
    name = {"embed": "sslam.embedding.parts.write_whole", "separate": "soundfile.write"}[command]
    module, _, attribute = name.rpartition(".")
    original = getattr(__import__(module, fromlist=[attribute]), attribute)
    calls = []

    def write(path: Path, *rest: Any, **kwargs: Any) -> Any:
        calls.append(path)
        if len(calls) == 1:
            shutil.rmtree(tmp_path / "out")
        return original(path, *rest, **kwargs)

    monkeypatch.setattr(name, write)
    if exit_code(main, [command, *args]) != 0:  # a folder that was made anew is as good
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert len(said.splitlines()) <= MOST_LINES
        (tmp_path / "out").mkdir(exist_ok=True)
    monkeypatch.undo()
    assert exit_code(main, [command, *args]) == 0, capsys.readouterr().err
    assert result.exists()


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_evaluate__a_disk_that_takes_nothing(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").write_bytes(b"weights")
    monkeypatch.setattr(evaluate, "run_child", lambda *_: 0)
    row = ["--checkpoint", "a.ckpt", "--task", "esc50", "--method", "linear_probe", "--folds", "1", "--no_baselines"]
    with largest_file(10) if fault == "full" else read_only(tmp_path / "runs"):
        said = check_fault("evaluate", [*row, "--run_id", "mine"], capsys)
    assert {"full": "File too large", "read-only": "Read-only file system"}[fault] in said
