"""`sslam evaluate` with the name of an earlier one, and one that is told to end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sslam.__main__ import main
from sslam.commands import evaluate
from sslam.commands.child_process import Ended, run_child
from sslam.commands.exit_codes import TERMINATED
from sslam.commands.made_from import keep, require_same
from sslam.errors import UsageError

ROW = ["--task", "esc50", "--method", "linear_probe", "--folds", "1", "--no_baselines", "--run_id", "mine"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").write_bytes(b"first")

    def done(command: list[str], _: Any) -> int:
        """Writes what stands for results, of which there is nothing to report."""
        experiment, run_id = (command[command.index(option) + 1] for option in ("--experiment", "--run_id"))
        Path("runs/evaluation/mine", experiment, run_id, "results-test.json").write_text("{}")
        return 0

    monkeypatch.setattr(evaluate, "run_child", done)
    monkeypatch.setattr("sslam.commands.report.report", lambda *_: 0)


def test_evaluate__the_same_again_is_done_before(capsys: pytest.CaptureFixture[str]) -> None:
    for said in (": done\n", ": done before\n"):
        assert main(["evaluate", "--checkpoint", "a.ckpt", *ROW]) == 0
        assert capsys.readouterr().out.endswith(said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("checkpoint", "checkpoint was a7937b64b8ca, is 16367aacb67a"),
        ("option", "more options was '', is '--data.batch_size 3'"),
    ],
)
def test_evaluate__another_checkpoint_or_option_is_no_repetition(
    change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--checkpoint", "a.ckpt", *ROW]) == 0
    more = []
    if change == "checkpoint":
        Path("a.ckpt").write_bytes(b"second")
    else:
        more = ["--data.batch_size", "3"]
    assert main(["evaluate", "--checkpoint", "a.ckpt", *ROW, *more]) == 2
    said = capsys.readouterr().err
    assert f"/a-fold1 was made from something else: {message}" in said
    assert "Choose another --run_id, or remove the folder to have it done again." in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("changed", ["given.yaml", "composed.yaml", "deep/block.yaml", "deep/vit.yaml"])
def test_evaluate__other_files_that_are_named_are_no_repetition(
    changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By --config, by what it composes, as a block of that, or of an encoder that needs no checkpoint."""
    Path("deep").mkdir()
    Path("given.yaml").write_text("compose: [composed.yaml]\n")
    Path("composed.yaml").write_text("model:\n  init_args:\n    augmentation: deep/block.yaml\n")
    Path("deep/block.yaml").write_text("init_args: {mask_ratio: 0.1}\n")
    Path("encoder.yaml").write_text("model: {init_args: {encoder: deep/vit.yaml}}\n")
    Path("deep/vit.yaml").write_text("init_args: {width: 32}\n")
    command = ["evaluate", "--checkpoint", "a.ckpt", "--checkpoint", "encoder.yaml", *ROW, "--config=given.yaml"]
    for said in (": done\n", ": done before\n"):
        assert main(command) == 0
        assert capsys.readouterr().out.endswith(said)
    with Path(changed).open("a") as file:
        file.write("# other\n")
    assert main(command) == 2
    assert "was made from something else: named files was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("codes", "expected", "has_table"),
    [
        ([0, 0], 0, True),
        ([2, 0], 0, True),  # a data set that is not there is said, and the table is of the others
        ([1, 0], 1, True),
        ([2, 2], 2, False),
        ([1, 2], 1, False),
        ([1, 1], 1, False),
        ([None, 0], 1, True),  # it says that it is done, and has written nothing
    ],
)
def test_evaluate__exit_code(
    codes: list[int | None], expected: int, has_table: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, tables = list(codes), []

    def run_child(command: list[str], log: Any) -> int:
        code = left.pop(0)
        return done(command, log) if code == 0 else code or 0

    done = evaluate.run_child
    monkeypatch.setattr(evaluate, "run_child", run_child)
    monkeypatch.setattr("sslam.commands.report.report", lambda *_: tables.append(1) or 0)
    command = [
        "evaluate",
        "--checkpoint",
        "a.ckpt",
        *ROW[:4],
        "--folds",
        "1",
        "2",
        "--no_baselines",
        "--run_id",
        "mine",
    ]
    assert main(command) == expected
    assert bool(tables) == has_table


def test_evaluate__a_run_that_states_no_named_files_is_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    """As those of earlier versions."""
    assert main(["evaluate", "--checkpoint", "a.ckpt", *ROW]) == 0
    (note,) = Path("runs").rglob("made_from.json")
    stated = json.loads(note.read_text())
    del stated["named files"]
    note.write_text(json.dumps(stated))
    assert main(["evaluate", "--checkpoint", "a.ckpt", *ROW]) == 0
    assert capsys.readouterr().out.endswith(": done before\n")


@pytest.mark.parametrize("left", ["results-test.json", "checkpoints/last.ckpt", "log.txt"])
def test_require_same__a_run_that_failed_at_once_is_done_as_it_is_asked_for_now(tmp_path: Path, left: str) -> None:
    """One with a checkpoint, or results, is another run."""
    keep(tmp_path, {"checkpoint": "one", "named files": ""})
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    asked = {"checkpoint": "other", "named files": ""}
    if left == "log.txt":
        require_same(tmp_path, asked)
    else:
        with pytest.raises(UsageError, match="made from something else: checkpoint was 'one', is 'other'"):
            require_same(tmp_path, asked)
    require_same(tmp_path / "new", asked)
    (tmp_path / "made_from.json").unlink()
    require_same(tmp_path, asked)  # one of before there were notes


@pytest.mark.parametrize("text", ["{", "[1]", "{}"])
def test_require_same__a_damaged_note_is_told(tmp_path: Path, text: str) -> None:
    keep(tmp_path, {"checkpoint": "one"})
    (tmp_path / "made_from.json").write_text(text)
    (tmp_path / "results-test.json").touch()
    with pytest.raises(UsageError, match="made_from.json is damaged. Remove"):
        require_same(tmp_path, {"checkpoint": "one", "named files": ""})


def test_run_child__ends_the_process_too(tmp_path: Path) -> None:
    """As fit does: it saves and ends with a code of its own."""
    saves = "import signal, sys, time, pathlib\n"
    saves += "def end(*_): time.sleep(1); pathlib.Path('saved').touch(); sys.exit(143)\n"
    saves += "signal.signal(signal.SIGTERM, end); pathlib.Path('running').touch(); time.sleep(60)"
    (tmp_path / "child.py").write_text(saves)
    parent = "import sys; from sslam.commands.child_process import run_child; from sslam.commands.command import run\n"
    parent += "work = lambda: run_child([sys.executable, 'child.py'], open('log.txt', 'w'))\n"
    parent += "sys.exit(run('sslam evaluate', work, 'Go on.'))"
    process = subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not Path("running").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == TERMINATED
    assert said == "sslam evaluate: Ended by SIGTERM. Go on.\n"
    assert Path("saved").exists()


def test_run_child__gives_the_code_and_puts_handlers_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (tmp_path / "log.txt").open("w") as log:
        assert run_child([sys.executable, "-c", "print('said'); raise SystemExit(7)"], log) == 7
        killer = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
        with pytest.raises(Ended) as ended:
            run_child([sys.executable, "-c", killer], log)
    assert ended.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert "said" in (tmp_path / "log.txt").read_text()
