"""What the commands share: one parser, one way to run, and how those that go through many files end.

It imports no torch, so that every command answers --help and mistakes in its options at once.
"""

import argparse
import math
import os
import secrets
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sslam.commands.child_process import Ended
from sslam.commands.exit_codes import DONE, FAILED, INTERRUPTED, OF_SIGNAL, USERS_MISTAKE
from sslam.errors import UsageError, for_terminal

if TYPE_CHECKING:
    import torch

    from sslam.audio import FileProblem

# Modules whose ValueErrors are about a value that the user gave.
CHECKING_MODULES = ("sslam.", "data_modules.", "callbacks.")

WORK_IS_KEPT = "What is finished is kept; the same command goes on from there."

NUM_WORKERS = min(4, os.cpu_count() or 1)

# Options of the commands that go through audio files.
AUDIO_PATHS: dict[str, Any] = {
    "nargs": "+",
    "metavar": "PATH",
    "help": "audio files, or folders to search with all subfolders",
}
USER_CLASSES: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "CLASS",
    "help": "import path of a class of your own that a checkpoint may name, such as my_encoders.TinyEncoder: it is "
    "imported; once or more",
}
WEIGHTS_AT = "a file, a folder with its weights, or hf://OWNER/NAME[@REVISION][/FILE] on the Hugging Face Hub"
DEVICE: dict[str, Any] = {"help": "cpu, cuda, cuda:1, ... or auto (default: a GPU if there is one)"}


class CommandParser(argparse.ArgumentParser):
    """Options of one command, spelled out in full; a mistake is answered in one line.

    Args:
        command: Name of the command.
        **kwargs: Of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, command: str, **kwargs: Any) -> None:
        super().__init__(prog=f"sslam {command}", allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(USERS_MISTAKE, f"{self.prog}: {message}. See {self.prog} --help.\n")


def positive_integer(text: str) -> int:
    """Type of an option: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def finite_number(text: str) -> float:
    """Type of an option: neither NaN nor infinite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return value


def positive_number(text: str) -> float:
    """Type of an option: finite and greater than 0."""
    if (value := finite_number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"must be greater than 0, got {text!r}")
    return value


def new_run_id() -> str:
    """Time and a random suffix, so that two runs that start in one second differ: ``20250131-142530-a1b2c3``."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def check_output(output: Path, overwrite: bool, is_folder: bool = False) -> None:
    """Refuse an output file that would take the place of another one, or that nobody has made a folder for.

    Args:
        output: The file.
        overwrite: Whether a file of this name is replaced; a device, a pipe or a folder never is.
        is_folder: Whether it is a folder instead.

    Raises:
        UsageError: With the remedy.
    """
    if output.exists() and not (output.is_dir() if is_folder else output.is_file()):
        kind = "folder" if is_folder else "regular file"
        raise UsageError(f"{output} exists and is no {kind}, and only such a one is replaced. Choose another name.")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists already. Choose another name or add --overwrite.")
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder {output.parent}. Make it, or choose another output.")


def choose_device(name: str | None) -> "torch.device":
    """A device by its name; without one, or with "auto", a GPU if there is one.

    Raises:
        UsageError: If the device cannot be used.
    """
    import torch

    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used ({reason}). Leave it out, or give cpu.") from error


def main_of(
    build_parser: Callable[[], argparse.ArgumentParser],
    work: Callable[[argparse.Namespace], int],
    after_interruption: str = "",
) -> Callable[[Sequence[str]], int]:
    """The ``main`` of a command: a function of the command line, without the program and command names.

    Args:
        build_parser: Makes the command's parser, which leaves with code 2 for a mistake and 0 after --help.
        work: Does what the parsed options say; see :func:`run`.
        after_interruption: See :func:`run`.
    """

    def main(args: Sequence[str]) -> int:
        parser = build_parser()
        options = parser.parse_args(args)
        return run(parser.prog, lambda: work(options), after_interruption)

    return main


def run(program: str, work: Callable[[], int], after_interruption: str = "") -> int:
    """Do the work of a command, and say in a sentence what stopped it; warnings are sentences, too.

    Args:
        program: Such as ``sslam embed``.
        work: Gives back the exit code.
        after_interruption: What to say to somebody who has pressed Ctrl-C.

    Returns:
        Exit code: what ``work`` returns; 2 for a mistake of the user, or a file that cannot be read or written; 1 if
        the memory of the device did not suffice; 130 if interrupted.
    """

    def say(message: object, *_: Any) -> None:
        sys.stderr.write(for_terminal(f"{program}: {message}\n"))

    with warnings.catch_warnings():
        warnings.showwarning = say  # type: ignore[assignment]  # it has more arguments
        try:
            return work()
        except KeyboardInterrupt:
            say(f"Interrupted. {after_interruption}".rstrip())
            return INTERRUPTED
        except Ended as end:
            say(f"{end} {after_interruption}".rstrip())
            return OF_SIGNAL[signal.Signals(end.signum)]
        except Exception as error:
            if is_users_mistake(error) or (isinstance(error, OSError) and error.errno is not None):
                say(error)  # a library that cannot be loaded has no errno
                return USERS_MISTAKE
            if type(error).__name__ != "OutOfMemoryError":  # torch's, known without importing torch
                raise
            say("The device's memory does not suffice. The same command with a smaller --batch_size goes on.")
            return FAILED


def is_users_mistake(error: BaseException, checking_modules: tuple[str, ...] = CHECKING_MODULES) -> bool:
    """Whether an error comes from a check of what the user gave, rather than from a bug."""
    if isinstance(error, UsageError):
        return True
    raised_in = list(traceback.walk_tb(error.__traceback__))[-1][0].f_globals["__name__"]
    return isinstance(error, ValueError | FileNotFoundError) and f"{raised_in}.".startswith(checking_modules)


def say_what_is_finished(command: str, num_finished: int, num_files: int, place: Path) -> None:
    """A word on files that an earlier run has done."""
    if num_finished:
        sys.stderr.write(f"sslam {command}: {num_finished} of {num_files} files are finished already ({place}).\n")


def close_file_command(num_files: int, problems: Sequence["FileProblem"], bad_files: Path, done: str) -> int:
    """List the bad files, in place of an older list, and say what became of all.

    Args:
        num_files: Good and bad ones.
        problems: Problems of the bad ones.
        bad_files: Where they are listed.
        done: What was done to the good ones, and where it is.

    Returns:
        Exit code.

    Raises:
        UsageError: If no file could be used.
    """
    from sslam.audio_files import add_bad_files

    bad_files.unlink(missing_ok=True)
    add_bad_files(bad_files, problems)
    skipped = sum(problem.action == "skipped" for problem in problems)
    if skipped == num_files:
        first = problems[0]
        raise UsageError(
            f"None of the {skipped} files can be used; the first is {first.path} ({first.reason}). All of them are "
            f"listed in {bad_files}. Give readable wav, flac, mp3, ogg or opus files."
        )
    sys.stdout.write(f"{num_files - skipped} files {done}\n")
    if problems:
        sys.stdout.write(f"{skipped} bad files skipped, {len(problems) - skipped} repaired: {bad_files}\n")
    return DONE
