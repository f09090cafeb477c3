"""Finished work of ``sslam embed``, kept beside the output until all of it is there.

The folder holds ``manifest.json`` (the files and what decides their embeddings) and ``part-*.npz``, each with the
rows of some files. All are written under another name and then renamed, so that a kill leaves none by halves.
"""

import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from sslam.atomic_write import write_whole
from sslam.audio import FileProblem
from sslam.errors import UsageError

MANIFEST = "manifest.json"
PARTIAL = ".partial"
VERSION = 1

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class FileResult:
    """What became of a file.

    Attributes:
        file: Its number in the manifest.
        seconds: Its length; 0 for a skipped one.
        columns: Arrays with the file's rows along their first axis; empty for a skipped file.
        problem: What was wrong with it.
    """

    file: int
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


class Parts:
    """The folder of finished work.

    Args:
        path: The folder; made if it does not exist.
        settings: What decides the rows: checkpoint and options, plain values.
        files: All files, sorted.

    Raises:
        UsageError: If the folder holds work on other files or with other settings, or is damaged.
    """

    def __init__(self, path: Path, settings: dict[str, Any], files: Sequence[str]) -> None:
        self.path = path
        self.files = list(files)
        self.finished: set[int] = set()
        self.problems: dict[int, FileProblem] = {}
        self.stated_seconds: list[float] = []
        self._next = 0
        if (path / MANIFEST).is_file():
            self._resume(settings)
        else:
            if path.exists() and any(not entry.name.endswith(PARTIAL) for entry in path.iterdir()):
                raise UsageError(f"{path} holds something else than interrupted work. Move it out of the way.")
            path.mkdir(exist_ok=True)
        self._settings = settings

    def begin(self, stated_seconds: list[float]) -> None:
        """Write the manifest of new work, with the files' lengths by their headers."""
        self.stated_seconds = stated_seconds
        manifest = {
            "version": VERSION,
            "settings": self._settings,
            "files": self.files,
            "stated_seconds": stated_seconds,
        }
        write_whole(self.path / MANIFEST, lambda partial: partial.write_text(json.dumps(manifest), encoding="utf-8"))

    def _resume(self, settings: dict[str, Any]) -> None:
        manifest_path = self.path / MANIFEST
        try:
            manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
            before = {"version": manifest["version"]} | manifest["settings"]
            files, self.stated_seconds = manifest["files"], manifest["stated_seconds"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{manifest_path} is damaged. Remove the folder to start anew.") from error
        now = {"version": VERSION} | settings
        different = [
            f"{name} was {before.get(name)} and is now {now.get(name)}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
        if different:
            raise UsageError(
                f"{self.path} holds the work of an interrupted run, of which {'; '.join(different)}. Give what was "
                "given then, choose another output, or remove the folder."
            )
        if files != self.files:
            new, gone = sorted({*self.files} - {*files}), sorted({*files} - {*self.files})
            raise UsageError(
                f"{self.path} holds the work of an interrupted run on other files: {len(new)} are new and {len(gone)} "
                f"are gone, such as {(new + gone)[0]}. Give the same files, choose another output, or remove the "
                "folder."
            )
        for path in self._part_paths():
            with _opened(path) as part:
                self.finished.update(part["file_index"].tolist())
                for file, *problem in json.loads(str(part["problems"])):
                    self.problems[file] = FileProblem(*problem)
            self._next = int(path.stem.partition("-")[2]) + 1

    def _part_paths(self) -> list[Path]:
        return sorted(self.path.glob("part-*.npz"))

    def add(self, results: Sequence[FileResult]) -> None:
        """Keep the results of some files."""
        if not results:
            return
        problems = [(result.file, *result.problem) for result in results if result.problem is not None]
        good = [result.columns for result in results if result.columns]
        columns = {name: np.concatenate([rows[name] for rows in good]) for name in (good[0] if good else ())}
        arrays: dict[str, Any] = {
            "file_index": np.array([result.file for result in results], np.int64),
            "num_rows": np.array([result.num_rows for result in results], np.int64),
            "seconds": np.array([result.seconds for result in results], np.float64),
            "problems": np.array(json.dumps(problems)),
            **{f"rows/{name}": rows for name, rows in columns.items()},
        }

        def write_arrays(path: Path) -> None:
            with path.open("wb") as stream:  # np.savez would add its extension to a name
                np.savez(stream, **arrays)

        write_whole(self.path / f"part-{self._next:08d}.npz", write_arrays)
        self._next += 1
        self.finished.update(result.file for result in results)
        self.problems |= {result.file: result.problem for result in results if result.problem is not None}

    def merge(self) -> Merged:
        """The rows of all files in the order of the files, on disk rather than in memory.

        Raises:
            UsageError: If a part is damaged.
        """
        num_rows = np.zeros(len(self.files), np.int64)
        seconds = np.zeros(len(self.files))
        for path in self._part_paths():
            with _opened(path) as part:
                num_rows[part["file_index"]], seconds[part["file_index"]] = part["num_rows"], part["seconds"]
        first_row = np.cumsum(num_rows) - num_rows
        merged: Columns = {}
        for path in self._part_paths():
            with _opened(path) as part:
                rows_of_file, files = part["num_rows"], part["file_index"]
                # Row numbers of the merged array, for one row of the part after the other.
                shift = first_row[files] - (np.cumsum(rows_of_file) - rows_of_file)
                targets = np.repeat(shift, rows_of_file) + np.arange(rows_of_file.sum())
                for name in (key.removeprefix("rows/") for key in part.files if key.startswith("rows/")):
                    rows = part[f"rows/{name}"]
                    if name not in merged:
                        shape = (int(num_rows.sum()), *rows.shape[1:])
                        merged[name] = np.lib.format.open_memmap(
                            self.path / f"merged-{name}.npy", mode="w+", dtype=rows.dtype, shape=shape
                        )
                    merged[name][targets] = rows
        return Merged(num_rows, seconds, merged)

    def remove(self) -> None:
        """Remove the folder, the work being done."""
        shutil.rmtree(self.path)


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        with np.load(path, allow_pickle=False) as part:
            yield part
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is damaged. Remove it, and its files are embedded again.") from error
