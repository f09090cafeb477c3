"""A command that runs others: what ends it ends them too, after they have saved."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Ended(Exception):  # noqa: N818, nothing has gone wrong
    """A signal has ended what was running.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"Ended by {signal.Signals(signum).name}.")
        self.signum = signum


def run_child(command: Sequence[str], output: IO[str]) -> int:
    """Run a process to its end.

    Args:
        command: Its arguments.
        output: File that takes its standard output and error.

    Returns:
        Its exit code.

    Raises:
        Ended: If SIGINT, SIGTERM or SIGUSR1 came, which the process was sent too, and it has ended.
    """
    received = 0
    child: subprocess.Popen[str] | None = None

    def pass_on(signum: int, _: FrameType | None) -> None:
        nonlocal received
        received = signum
        if child is not None:
            child.send_signal(signum)

    before = {signum: signal.signal(signum, pass_on) for signum in SIGNALS}
    try:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
        if received:
            child.send_signal(received)
        code = child.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if received:
        raise Ended(received)
    return code


def last_said(log: Path, start: int, subcommand: str) -> str:
    """What a `sslam fit` or the like said last: its own sentence, where there is one, else the last line.

    Args:
        log: File that took its output.
        start: Byte of the file at which it began.
        subcommand: Such as `fit`.
    """
    text = log.read_bytes()[start:].decode("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(f"sslam {subcommand}:")]
    return (said or lines or ["no output"])[-1]
