"""Writing files so that nobody finds one by halves."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file and then rename, so that an interrupted run leaves no half file and spoils no old one.

    Args:
        path: The file; an old one is replaced.
        write: Writes to the path that it is given, which ends in ``.partial`` and is in the folder of ``path``.

    Raises:
        OSError: If the folder cannot be written to, or the disk is full, also where ``write`` says so in its own
            kind of error. What else it raises is passed on. Nothing is left then.
    """
    partial = path.with_name(f".{path.name[:50]}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())  # or a power cut could leave the name without the content
        partial.replace(path)
    except (RuntimeError, OSError) as error:
        raise _of_the_disk(error, path) or error from error
    except Exception as error:
        # safetensors' own kind, known without importing it.
        found = _of_the_disk(error, path) if type(error).__name__ == "SafetensorError" else None
        raise found or error from error
    finally:
        partial.unlink(missing_ok=True)


def torch_save(values: object, path: Path) -> None:
    """``torch.save`` through a stream of Python's, which says why it cannot write; for :func:`write_whole`."""
    import torch  # takes seconds, which other writers need not wait for

    with path.open("wb") as stream:
        torch.save(values, stream)


def _of_the_disk(error: BaseException, path: Path) -> OSError | None:
    """The disk's complaint in an error of torch.save or NumPy, which hide it, or of safetensors, which quotes it."""
    if isinstance(error, OSError):
        if not re.fullmatch(r"\d+ requested and \d+ written", str(error)):
            return None
        number = errno.ENOSPC  # NumPy does not say why
    elif isinstance(error.__context__, OSError):
        number = error.__context__.errno or errno.EIO
    elif found := re.search(r"os error (\d+)", str(error)):
        number = int(found[1])
    elif "PytorchStreamWriter" in str(error) or "inline_container" in str(error):
        number = errno.EIO
    else:
        return None
    return OSError(number, os.strerror(number), str(path))
