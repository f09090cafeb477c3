"""What large lists say, kept as arrays in a cache: read once, and mapped by every process of every later start.

The cache is ``$SSLAM_CACHE``, or ``sslam`` in the user's cache folder. Whoever comes first makes the arrays, the others
on the machine wait for it; hosts that share no disk make their own.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from sslam.mapped_arrays import map_arrays, read_about, write_arrays

VERSION = 1
MIN_LIST_BYTES = 2**20  # of smaller lists, of some 20 000 clips, nothing is kept


class Listed(NamedTuple):
    """What lists say: arrays, and plain values about them."""

    arrays: Mapping[str, NDArray[Any]]
    about: dict[str, Any]


def cache_folder() -> Path:
    """Where arrays are kept."""
    if given := os.environ.get("SSLAM_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslam"


def kept_listing(lists: Sequence[Path], settings: Mapping[str, Any], make: Callable[[bool], Listed]) -> Listed:
    """What lists say, from the cache where they have not changed since, by their sizes and times.

    Args:
        lists: The files that are read. Where they have less than a megabyte in all, nothing is kept.
        settings: Plain values that decide what is made of them.
        make: Reads the lists; is told whether the result is kept for other processes.

    Returns:
        The arrays, mapped where they are kept.
    """
    stamps: list[tuple[str, int, int]] = []
    for path in lists:
        status = path.stat()
        stamps.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    if sum(size for _, size, _ in stamps) < MIN_LIST_BYTES:
        return make(False)
    # One folder for a list and what is made of it, whose contents are replaced when the list changes.
    place = repr((sorted(settings.items()), [path for path, _, _ in stamps]))
    folder = cache_folder() / "lists" / blake2b(place.encode(errors="surrogateescape"), digest_size=10).hexdigest()
    key = {"version": VERSION, "lists": [list(stamp) for stamp in stamps]}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            about = read_about(folder)
            if about is None or about.get("key") != key:
                made = make(True)
                write_arrays(folder, made.arrays, {"key": key, "about": made.about})
                del made
                about = read_about(folder)
            else:
                rank_zero_info(f"The clips of {lists[-1]} are those of {folder}; remove it to look for them again.")
            assert about is not None
            return Listed(map_arrays(folder), about["about"])
    except OSError as error:
        warnings.warn(
            f"What {lists[-1]} lists cannot be kept in {folder} ({error.strerror}), so every process reads it. Set "
            "SSLAM_CACHE to a folder that can be written.",
            stacklevel=2,
        )
        return make(False)
