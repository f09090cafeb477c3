"""Finished work of ``sslam embed``, kept beside the output until all of it is there.

The folder holds ``embedding.jsonl``, the list of finished files, and ``part-*.npz``, each with the rows of some.
"""

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from sslam.atomic_write import write_whole
from sslam.audio import FileProblem
from sslam.errors import UsageError
from sslam.finished_files import Entry, FinishedFiles, InputFile

LIST = "embedding.jsonl"

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class FileResult:
    """What became of a file.

    Attributes:
        file: The file.
        seconds: Its length; 0 for a skipped one.
        columns: Arrays with the file's rows along their first axis; empty for a skipped file.
        problem: What was wrong with it.
    """

    file: InputFile
    seconds: float = 0.0
    columns: Columns = field(default_factory=dict)
    problem: FileProblem | None = None

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def num_bytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())


class Merged(NamedTuple):
    """All results in the order of the files: rows per file and seconds, both (N,), and the rows of all files."""

    num_rows: NDArray[np.int64]
    seconds: NDArray[np.float64]
    columns: Columns


class Parts(FinishedFiles):
    """Finished files with their rows: the list names the part that holds a file's, and the first of them in it."""

    def left(self, files: Sequence[InputFile]) -> list[InputFile]:
        """The files that are left to do; those of a part that is gone are done again."""
        return self.unfinished(files, lambda file: [Path(self.entries[file.name].more["part"])])

    def keep(self, results: Sequence[FileResult]) -> None:
        """Keep the results of some files."""
        if not results:
            return
        before = max((path.stem for path in self.folder.glob("part-*.npz")), default="part--1")
        path = self.folder / f"part-{int(before.removeprefix('part-')) + 1:08d}.npz"
        good = [result.columns for result in results if result.columns]
        columns: dict[str, Any] = {name: np.concatenate([rows[name] for rows in good]) for name in (good or [{}])[0]}

        def write_arrays(partial: Path) -> None:
            with partial.open("wb") as stream:  # np.savez would add its extension to a name
                np.savez(stream, **columns)

        write_whole(path, write_arrays)
        first_rows = accumulate((result.num_rows for result in results), initial=0)
        self.add(
            *(
                Entry(
                    result.file,
                    result.problem,
                    {"part": path.name, "row": row, "num_rows": result.num_rows, "seconds": result.seconds},
                )
                for result, row in zip(results, first_rows, strict=False)
            )
        )

    def merge(self, files: Sequence[InputFile]) -> Merged:
        """The rows of all files in the order of the files, on disk rather than in memory.

        Raises:
            UsageError: If a part is damaged.
        """
        entries = [self.entries[file.name].more for file in files]
        num_rows = np.array([entry["num_rows"] for entry in entries], np.int64)
        seconds = np.array([entry["seconds"] for entry in entries], np.float64)
        targets = (np.cumsum(num_rows) - num_rows).tolist()
        merged: Columns = {}
        good = [(entry, target) for entry, target in zip(entries, targets, strict=True) if entry["num_rows"]]
        for part, of_part in groupby(sorted(good, key=lambda found: found[0]["part"]), lambda found: found[0]["part"]):
            some = list(of_part)
            with _opened(self.folder / part) as columns:
                for name, rows in columns.items():
                    if name not in merged:
                        shape = (int(num_rows.sum()), *rows.shape[1:])
                        path = self.folder / f"merged-{name}.npy"
                        merged[name] = np.lib.format.open_memmap(path, mode="w+", dtype=rows.dtype, shape=shape)
                        _take_room(path)
                    for entry, target in some:
                        row, number = entry["row"], entry["num_rows"]
                        merged[name][target : target + number] = rows[row : row + number]
        return Merged(num_rows, seconds, merged)


def _take_room(path: Path) -> None:
    """Have the disk set aside all of a file: written through memory, a full one ends the process without a word.

    Raises:
        OSError: If there is not so much room.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        with np.load(path, allow_pickle=False) as part:
            yield part
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is damaged. Remove it, and its files are embedded again.") from error
