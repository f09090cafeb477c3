"""One process at a time writes into a folder."""

import warnings
from pathlib import Path

from filelock import FileLock, Timeout

from sslam.errors import UsageError

LOCK = ".lock"


def lock_folder(folder: Path, remedy: str) -> FileLock:
    """Take a folder for this process, until the lock is released, or forgotten, or the process ends in any way.

    Args:
        folder: A folder that exists; its file ``.lock`` is what is locked.
        remedy: Advice for one who comes second.

    Raises:
        UsageError: If another process has it.
    """
    lock = FileLock(folder / LOCK, is_singleton=True)  # within a process it may be taken again
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{folder} is in use by another process. {remedy}") from error
    except OSError as error:  # a disk of the network that has no locks
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): see to it that one process alone writes there.",
            stacklevel=2,
        )
    return lock
