"""Folders of audio files packed into tar shards: every clip is read by its name, as if it lay there as a file.

A packed folder has the shards and ``index/``, arrays that say where in which shard a clip is. Its clips have the paths
``FOLDER/NAME`` that they would have as files, and whatever lists, finds or decodes files takes them: data modules and
commands need not know. ``sslam data pack`` writes such folders; of shards made elsewhere ``sslam data index`` makes
the index.
"""

import io
import os
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sslam.mapped_arrays import ABOUT, Texts, map_arrays, read_about

INDEX = "index"
VERSION = 1
MAX_NAME_BYTES = 4096  # longer ones no file system takes


class HostileNameError(ValueError):
    """A name in an archive leads out of its folder."""


class PackedClip(NamedTuple):
    """Where the audio of a clip is: shard, its first byte in it, its number of bytes."""

    shard: str
    offset: int
    size: int

    def open(self) -> "PartOfFile":
        """Its audio file, to read a part of it.

        Raises:
            OSError: If the shard cannot be read.
        """
        return PartOfFile(self)


class PartOfFile(io.RawIOBase):
    """The bytes of a clip in its shard as a file of its own."""

    def __init__(self, clip: PackedClip) -> None:
        self._clip = clip
        self._position = 0
        self._stream = Path(clip.shard).open("rb", buffering=0)  # noqa: SIM115, closed with this

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._clip.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._clip.size - self._position))
        data = os.pread(self._stream.fileno(), wanted, self._clip.offset + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        rest = os.pread(self._stream.fileno(), self._clip.size - self._position, self._clip.offset + self._position)
        self._position += len(rest)
        return rest

    def close(self) -> None:
        self._stream.close()
        super().close()


class PackedAudio:
    """A packed folder.

    Args:
        folder: Folder with the shards and ``index/``.

    Raises:
        ValueError: If the index is of another version, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = read_about(folder / INDEX)
        if about is None or about.get("version") != VERSION:
            raise ValueError(
                f"The index of '{folder}' is damaged, or of another version. Make it again: sslam data index {folder}."
            )
        arrays = map_arrays(folder / INDEX)
        self.names = Texts.from_arrays("names", arrays)
        """The clips' names, sorted by their bytes."""
        self._shards = [safe_name(shard, f"'{folder / INDEX}'") for shard in about["shards"]]
        self._shard_of_clip, self._offsets, self._sizes = (arrays[name] for name in ("shards", "offsets", "sizes"))

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> PackedClip | None:
        """A clip by its name; None if there is none of it."""
        wanted = os.fsencode(name)
        row = bisect_left(range(len(self)), wanted, key=self.names.encoded)
        if row == len(self) or self.names.encoded(row) != wanted:
            return None
        shard = os.path.join(self.folder, self._shards[self._shard_of_clip[row]])  # noqa: PTH118, read for each clip
        return PackedClip(shard, int(self._offsets[row]), int(self._sizes[row]))


def index_files(folder: str | Path) -> list[Path]:
    """Files of a packed folder's index, which tell by size and time whether it is the same; none of another folder."""
    return sorted((Path(folder) / INDEX).glob("*")) if (Path(folder) / INDEX / ABOUT).is_file() else []


def packed_folder(folder: str | Path) -> PackedAudio | None:
    """A folder as a packed one; None if it has no index of shards.

    Raises:
        ValueError: If its index is damaged.
    """
    try:
        status = (Path(folder) / INDEX / ABOUT).stat()
    except OSError:
        return None
    return _opened(str(folder), status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=16)
def _opened(folder: str, changed_ns: int, inode: int) -> PackedAudio:
    return PackedAudio(Path(folder))


def packed_clip(path: str) -> PackedClip | None:
    """The clip of a packed folder that a path stands for; None if it stands for none."""
    for folder in _folders_above(path):
        if (packed := _packed_once(folder)) is not None:
            return packed.find(path[len(folder) :].lstrip(os.sep))
    return None


def _folders_above(path: str) -> Iterator[str]:
    folder = path.rpartition(os.sep)[0]
    while folder:
        yield folder
        folder = folder.rpartition(os.sep)[0]


@lru_cache(maxsize=65_536)
def _packed_once(folder: str) -> PackedAudio | None:
    """Asked for each clip, so the disk is asked once; what is packed later, a later process sees."""
    return packed_folder(folder)


def safe_name(name: str, where: str) -> str:
    """A name out of an archive or a list, which must stay in the folder that it is taken for.

    Args:
        name: The name, with "/" between folders.
        where: Place of the name, for the message.

    Raises:
        HostileNameError: If it is empty, absolute, leads upwards, is no plain path, or is longer than any file's.
    """
    path = PurePosixPath(name)
    is_plain = name == str(path) or name == f"./{path}"
    leads_out = path.is_absolute() or ".." in path.parts or not path.parts
    if leads_out or not is_plain or "\0" in name or "\\" in name or len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise HostileNameError(
            f"{where}: the name {name[:200]!r} does not stay in its folder, or is no plain relative path. Take this "
            "archive from somebody whom you trust, or make it again."
        )
    return str(path)
