"""`sslam evaluate` with the name of an earlier one, and one that is told to end."""

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
