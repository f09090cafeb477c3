"""Files written by ``torch.save``, in today's zip format and in the one before torch 1.6, read without execution."""

import io
import math
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor

from sslam.checkpoints.restricted_pickle import TensorRecord, load_pickle
from sslam.errors import CheckpointError, printable

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
ZIP_START = b"PK\x03\x04"


class TorchFile:
    """An opened file: its contents as plain values, and the tensors on demand.

    Args:
        path: A file written by ``torch.save``.

    Attributes:
        root: The pickled object, with :class:`~sslam.checkpoints.restricted_pickle.TensorRecord` for tensors.
        skipped_names: Classes and functions that the file names and that were not read.

    Raises:
        CheckpointError: If the file is damaged, unsafe or no such file.
    """

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        self._stream: IO[bytes] = path.open("rb")
        # Storage key to (position in the file or name in the archive, bytes).
        self._storages: dict[str, tuple[int | str, int]] = {}
        self._archive: zipfile.ZipFile | None = None
        self.root: Any
        self.skipped_names: set[str]
        try:
            is_zip = self._stream.read(len(ZIP_START)) == ZIP_START
            self._stream.seek(0)
            self._open_zip() if is_zip else self._open_legacy()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _open_zip(self) -> None:
        try:
            self._archive = zipfile.ZipFile(self._stream)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise CheckpointError(
                f"The file starts like a checkpoint but its end is missing or damaged ({printable(str(error))}). "
                "Download it again."
            ) from error
        members = self._archive.infolist()
        for member in members:
            self._check_member(member)
        if len({member.filename for member in members}) != len(members):
            raise CheckpointError("The archive holds two entries of one name. torch.save never does; do not use it.")
        sizes = {member.filename: member.file_size for member in members}
        pickles = [name for name in sizes if name.count("/") <= 1 and name.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(
                f"The zip archive holds {len(pickles)} entries named data.pkl where a checkpoint has one. "
                "Give a file written by torch.save."
            )
        prefix = pickles[0].removesuffix("data.pkl")
        if sizes.get(prefix + "byteorder", 0) and self._member(prefix + "byteorder") != b"little":
            raise CheckpointError(
                "The file was written on a big-endian machine. Write it again on a little-endian one."
            )
        self.root, self.skipped_names, _ = load_pickle(io.BytesIO(self._member(pickles[0])))
        folder = prefix + "data/"
        self._storages = {
            name.removeprefix(folder): (name, size) for name, size in sizes.items() if name.startswith(folder)
        }

    def _check_member(self, member: zipfile.ZipInfo) -> None:
        parts = member.filename.replace("\\", "/").split("/")
        # Nothing is ever unpacked to disk; such names still tell that the file was not written by torch.save.
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise CheckpointError(
                f"The archive entry {printable(member.filename)} points outside the archive. Nothing was unpacked; "
                "do not use this file."
            )
        stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not stored or member.file_size > self._size:
            raise CheckpointError(
                f"The archive entry {printable(member.filename)} claims {member.file_size} bytes; torch.save stores "
                f"entries uncompressed and the file has {self._size}. Do not use it."
            )

    def _member(self, name: str) -> bytes:
        assert self._archive is not None
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
            raise CheckpointError(
                f"The archive entry {printable(name)} is damaged ({printable(str(error))}). Download the file again."
            ) from error

    def _open_legacy(self) -> None:
        magic = load_pickle(self._stream).value
        if magic != LEGACY_MAGIC or load_pickle(self._stream).value != LEGACY_VERSION:
            raise CheckpointError(
                "The file is a pickle but was not written by torch.save. Give a checkpoint of EAT, SSLAM or this "
                "project."
            )
        system = load_pickle(self._stream).value
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(
                "The file was written on a big-endian machine. Write it again on a little-endian one."
            )
        self.root, self.skipped_names, storages = load_pickle(self._stream)
        keys = load_pickle(self._stream).value
        position = self._stream.tell()
        for key in keys if isinstance(keys, list) else []:
            header = self._stream.read(8)
            storage = storages.get(key) if isinstance(key, str) else None
            if len(header) < 8 or storage is None or storage.storage_type.dtype is None:
                # The sizes that follow cannot be known; tensors stored there are reported when they are asked for.
                break
            num_bytes = struct.unpack("<q", header)[0] * storage.storage_type.dtype.itemsize
            if not 0 <= num_bytes <= self._size - position - 8:
                raise CheckpointError(
                    f"A storage of the file claims {num_bytes} bytes, more than the {self._size} of the file. It is "
                    "truncated or was tampered with; download it again."
                )
            self._storages[key] = (position + 8, num_bytes)
            position = self._stream.seek(position + 8 + num_bytes)

    def read(self, name: str, record: TensorRecord) -> Tensor:
        """The tensor ``name`` as a contiguous copy in float32.

        Raises:
            CheckpointError: If its numbers are not in the file, are not floating-point, or the view leaves the storage.
        """
        dtype = record.storage.storage_type.dtype
        if dtype is None or not dtype.is_floating_point:
            raise CheckpointError(
                f"The tensor {printable(name)} is a {printable(record.storage.storage_type.name)}; weights must be "
                "floating-point. Give a checkpoint of EAT, SSLAM or this project."
            )
        num_elements, num_bytes = record.storage.num_elements, record.storage.num_elements * dtype.itemsize
        place, available = self._storages.get(record.storage.key, (None, 0))
        if num_bytes != available:
            raise CheckpointError(
                f"The storage of tensor {printable(name)} claims {num_bytes} bytes but the file holds {available} for "
                "it. It is truncated or was tampered with; download it again."
            )
        last = record.offset + sum((size - 1) * step for size, step in zip(record.shape, record.stride, strict=True))
        empty = 0 in record.shape
        # More elements than the storage would be a view that repeats numbers, which could claim any amount of memory.
        if not empty and (last >= num_elements or math.prod(record.shape) > num_elements):
            raise CheckpointError(
                f"The tensor {printable(name)} of shape {record.shape} lies outside its storage of {num_elements} "
                "elements. The file is damaged or was tampered with; download it again."
            )
        if empty:
            return torch.empty(record.shape)
        if isinstance(place, str):
            data = self._member(place)
        else:
            assert place is not None
            self._stream.seek(place)
            data = self._stream.read(num_bytes)
        flat = torch.frombuffer(bytearray(data), dtype=dtype)
        return (
            flat.as_strided(record.shape, record.stride, record.offset)
            .float()
            .clone(memory_format=torch.contiguous_format)
        )
