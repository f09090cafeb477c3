"""What the metadata of a data set lists, and what of it is there.

Shape letters: N clips, C classes.
"""

import os
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from data_modules.kept_listing import Listed
from sslam.audio_files import audio_files_below, stated_size
from sslam.mapped_arrays import Texts

MAX_HEADERS = 25_000  # opened in seconds on a local disk; of a larger set a random sample is
NUM_THREADS = 8  # opening a header is waiting for the disk


@dataclass(frozen=True)
class Listing:
    """Counts of one split: what the metadata lists against what is on the disk."""

    listed: int
    """Clips in the metadata."""
    found: int
    """Clips whose audio file is there."""
    missing: int
    unreadable: int
    """Files, among those checked, whose header cannot be read or promises no sample."""
    checked: int
    """Files whose header was opened: all that were found, or a random sample of 25 000."""
    num_classes: int
    num_classes_with_clips: int
    """Classes with at least one clip that was found."""

    def __str__(self) -> str:
        return (
            f"{self.listed} clips listed, {self.found} found, {self.missing} missing; {self.unreadable} of "
            f"{self.checked} files checked unreadable; {self.num_classes_with_clips} of {self.num_classes} classes "
            "have clips"
        )


@dataclass(frozen=True)
class ClipTable:
    """The clips of one split as the metadata lists them, each with its file, whether that is there or not."""

    metadata: Path
    """Where they are listed, for messages."""
    paths: Sequence[str]
    """N audio files; of a missing one the path where it was expected."""
    is_found: NDArray[np.bool_]
    """(N,)"""
    labels: csr_array
    """(N, C), 1 where a clip has the class: sparse, because two million clips of 527 classes fill 4 GB otherwise."""
    polyphony: NDArray[np.int64] | None = None
    """(N,) degree of polyphony, where onsets are known."""
    start_seconds: NDArray[np.float32] | None = None
    """(N,) where a clip starts in its file, where one file holds several; NaN for a clip that is a file."""
    groups: NDArray[np.int64] | None = None
    """(N,) number of the recording that a clip is an excerpt of, where several clips may be of one."""
    files_sha256: str | None = None
    """Of the paths, where it is known; see :func:`~data_modules.clips.paths_sha256`."""

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, is_kept: ArrayLike) -> Self:
        """The table of the clips for which the mask (N,) is true."""
        kept = np.flatnonzero(is_kept).tolist()
        return replace(
            self,
            paths=self.paths.select(np.array(kept, np.int64))
            if isinstance(self.paths, Texts)
            else [self.paths[row] for row in kept],
            is_found=self.is_found[kept],
            labels=self.labels[kept],
            polyphony=None if self.polyphony is None else self.polyphony[kept],
            start_seconds=None if self.start_seconds is None else self.start_seconds[kept],
            groups=None if self.groups is None else self.groups[kept],
            files_sha256=None,
        )

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """All of it but the place of the metadata, as arrays under names that begin with this one."""
        columns = {"polyphony": self.polyphony, "start_seconds": self.start_seconds, "groups": self.groups}
        labels = {part: getattr(self.labels, part) for part in ("data", "indices", "indptr")}
        arrays = columns | labels | {"is_found": self.is_found, "shape": np.array(self.labels.shape)}
        own = {f"{name}_{key}": array for key, array in arrays.items() if array is not None}
        return Texts.of(self.paths).arrays(name) | own

    @classmethod
    def from_listed(cls, listed: Listed, name: str) -> Self:
        """What :meth:`arrays` gave, from a listing whose `splits` have `metadata` and `files_sha256`."""
        about = listed.about["splits"][name]
        own = {key.removeprefix(f"{name}_"): array for key, array in listed.arrays.items()}
        labels = csr_array((own["data"], own["indices"], own["indptr"]), shape=tuple(own["shape"]), copy=False)
        return cls(
            Path(about["metadata"]),
            Texts.from_arrays(name, listed.arrays),
            own["is_found"],
            labels,
            own.get("polyphony"),
            own.get("start_seconds"),
            own.get("groups"),
            about["files_sha256"],
        )


def label_matrix(rows: Iterable[Iterable[int]], num_classes: int) -> csr_array:
    """Sparse multi-hot labels (N, C) from the classes of each clip; a class named twice counts once."""
    columns, ends = array("i"), array("i", [0])  # not a list or an array per clip: there are millions
    for row in rows:
        columns.extend(sorted(set(row)))
        ends.append(len(columns))
    ones = np.ones(len(columns), np.float32)
    return csr_array((ones, np.array(columns), np.array(ends)), shape=(len(ends) - 1, num_classes))


def numbered(recordings: Sequence[str]) -> NDArray[np.int64] | None:
    """A number (N,) for every different one of the N recordings that clips are of; None where all differ."""
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(recording, len(numbers)) for recording in recordings], np.int64)
    return None if len(numbers) == len(recordings) else groups


def find_listed(root: Path, names: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """Look for listed audio files with one scan of a folder tree.

    Args:
        root: Folder to scan.
        names: Listed files, each by its path below `root`, or by its bare name wherever it lies below `root`.

    Returns:
        The full paths in the order of `names`, and whether each is there, shape (len(names),).

    Raises:
        ValueError: If two files have a bare name that is listed.
    """
    found: dict[str, str] = {}
    by_file_name: dict[str, list[str]] = {}
    wanted = set(names)
    for name in audio_files_below(root):
        if name in wanted:
            found[name] = name
        elif (file_name := name.rpartition(os.sep)[2]) in wanted:
            by_file_name.setdefault(file_name, []).append(name)
    for file_name, places in by_file_name.items():
        if len(places) > 1 and file_name not in found:
            first, second = sorted(places)[:2]
            raise ValueError(
                f"Audio file '{file_name}' is below '{root}' more than once: '{first}' and '{second}'. Remove one, or "
                "pass --data.root with the folder that holds the right ones alone."
            )
        found.setdefault(file_name, places[0])
    prefix = os.path.join(root, "")  # noqa: PTH118, not a Path per file: there may be millions
    return [prefix + found.get(name, name) for name in names], np.array([name in found for name in names], np.bool_)


def take_stock(title: str, split: str, table: ClipTable, max_missing_fraction: float, check_headers: bool) -> Listing:
    """Count what is there of a split.

    Args:
        title: Name of the data set, for messages.
        split: Name of the split, for messages.
        table: Clips that the metadata lists.
        max_missing_fraction: Share of missing clips from which on the data set counts as broken.
        check_headers: Whether to open the files' headers.

    Raises:
        ValueError: If the split has no clips, all are missing, or too many are.
    """
    if not len(table):
        raise ValueError(f"{title}: '{table.metadata}' lists no clip for {split}. Take the complete file.")
    present = table.select(table.is_found)
    missing = len(table) - len(present)
    if missing and (not len(present) or missing >= max_missing_fraction * len(table)):
        first = table.paths[int(np.argmin(table.is_found))]
        accept = f", or accept fewer clips: --data.max_missing_fraction {min(1.0, missing / len(table) + 0.01):.2f}"
        raise ValueError(
            f"{title}: audio of {missing} of the {len(table)} {split} clips in '{table.metadata}' is missing, first "
            f"'{first}'. Pass --data.root with the folder of the complete audio{accept if len(present) else ''}."
        )
    checked, unreadable = count_unreadable(present.paths) if check_headers else (0, 0)
    return Listing(
        listed=len(table),
        found=len(present),
        missing=missing,
        unreadable=unreadable,
        checked=checked,
        num_classes=table.labels.shape[1],
        num_classes_with_clips=int((present.labels.sum(axis=0) > 0).sum()),
    )


def count_unreadable(paths: Sequence[str]) -> tuple[int, int]:
    """Number of files whose header was opened, and of those among them that are no audio or hold no sample."""
    files = sorted(set(paths))
    if len(files) > MAX_HEADERS:
        files = [files[row] for row in np.random.default_rng(0).choice(len(files), MAX_HEADERS, replace=False)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return len(files), sum(size.num_samples == 0 for size in pool.map(stated_size, files))
