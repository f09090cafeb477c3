"""Arrays in a folder, made once and mapped into memory by every process, which so have no copy of their own.

Shape letters: N texts.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

ABOUT = "about.json"


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Write arrays as ``NAME.npy`` and plain values as ``about.json``; the folder appears when all is there.

    Args:
        folder: The folder; an old one is replaced.
        arrays: Arrays by their names.
        about: Plain values.

    Raises:
        OSError: If there is no room, or no right to write.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name[:50]}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        for name, array in arrays.items():
            with (partial / f"{name}.npy").open("wb") as stream:
                np.save(stream, array)
                os.fsync(stream.fileno())
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_about(folder: Path) -> dict[str, Any] | None:
    """The plain values; None where there is no such folder, or it is damaged."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def map_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays, mapped: what is not looked at is not read, and what is read is shared by all processes.

    Raises:
        OSError: If one cannot be read.
        ValueError: If one is damaged.
    """
    return {path.stem: _mapped(path) for path in sorted(folder.glob("*.npy"))}


def _mapped(path: Path) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    # An ordinary array over the same memory: a memmap of one element is slow to take, and copies go by its file.
    return np.asarray(array).view(np.ndarray)


class Texts(Sequence[str]):
    """N texts, such as paths, in two arrays: two million Python strings would fill 300 MB of every process.

    Args:
        characters: The texts' bytes, one after the other.
        ends: End of each text in it, shape (N,).
    """

    def __init__(self, characters: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.characters = characters
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Texts of any length; those of another such list as they are."""
        if isinstance(texts, cls):
            return texts
        # In blocks, or the encoded texts would stand in memory a second time.
        lengths: list[NDArray[np.int64]] = []
        blocks: list[bytes] = []
        for block in _blocks(texts, 65_536):
            encoded = [os.fsencode(text) for text in block]
            lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            blocks.append(b"".join(encoded))
        ends = np.cumsum(np.concatenate(lengths)) if lengths else np.zeros(0, np.int64)
        return cls(np.frombuffer(b"".join(blocks), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def encoded(self, row: int) -> bytes:
        """The bytes of a text."""
        start = self.ends[row - 1] if row else 0
        return self.characters[start : self.ends[row]].tobytes()

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[at] for at in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return os.fsdecode(self.encoded(row % len(self)))

    def select(self, rows: NDArray[np.int64]) -> "Texts":
        """The texts of some rows, in their order."""
        starts = np.concatenate([[0], self.ends[:-1]])[rows]
        lengths = self.ends[rows] - starts
        ends = np.cumsum(lengths)
        # Of every byte of the result the place where it comes from.
        places = np.arange(int(ends[-1]) if len(ends) else 0)
        places += np.repeat(starts - (ends - lengths), lengths)
        return Texts(self.characters[places], ends)

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Both arrays under names for :func:`write_arrays`."""
        return {f"{name}_characters": self.characters, f"{name}_ends": self.ends}

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What :meth:`arrays` gave."""
        return cls(arrays[f"{name}_characters"], arrays[f"{name}_ends"])


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    block: list[str] = []
    for text in texts:
        block.append(text)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
