"""How commands that go through many files end: `sslam embed` and `sslam separate`."""

import sys
from collections.abc import Callable

import torch

from sslam.checkpoints import CheckpointError
from sslam.errors import UsageError

USERS_MISTAKE = 2
OUT_OF_MEMORY = 1
INTERRUPTED = 130


def run_long_command(name: str, work: Callable[[], int]) -> int:
    """Do the work, and say in a sentence what stopped it.

    Returns:
        Exit code: what ``work`` returns; 2 for a mistake of the user; 1 if the memory did not suffice; 130 if
        interrupted.
    """
    try:
        return work()
    except (CheckpointError, UsageError, OSError) as error:
        return fail(name, str(error), USERS_MISTAKE)
    except torch.OutOfMemoryError:
        remedy = "The same command with a smaller --batch_size goes on."
        return fail(name, f"The device's memory does not suffice. {remedy}", OUT_OF_MEMORY)
    except KeyboardInterrupt:
        return fail(name, "Interrupted. What is finished is kept; the same command goes on from there.", INTERRUPTED)


def fail(name: str, message: str, code: int) -> int:
    """Say on standard error why a command ends; gives back the exit code."""
    sys.stderr.write(f"sslam {name}: {message}\n")
    return code
