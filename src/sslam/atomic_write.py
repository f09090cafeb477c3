"""Writing files so that nobody finds one by halves."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file and then rename, so that an interrupted run leaves no half file and spoils no old one.

    Args:
        path: The file; an old one is replaced.
        write: Writes to the path that it is given, which ends in ``.partial`` and is in the folder of ``path``.

    Raises:
        OSError: If the folder cannot be written to. What ``write`` raises is passed on, and nothing is left then.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())  # or a power cut could leave the name without the content
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
