"""TensorFlow V2 checkpoints, ``PREFIX.index`` with ``PREFIX.data-00000-of-00001``, read without TensorFlow.

The index is a table (:mod:`sslam.checkpoints.leveldb_table`) whose values are protocol buffers
(``tensorflow/core/protobuf/tensor_bundle.proto``): a header under the empty key, and under the name of every tensor
where it is. The data files hold nothing but the tensors' bytes.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sslam.checkpoints.crc32c import masked_crc32c
from sslam.checkpoints.leveldb_table import ByteReader, MalformedError, read_table
from sslam.errors import CheckpointError, printable

DTYPES = {1: torch.float32, 2: torch.float64, 3: torch.int32, 9: torch.int64}  # by their number in types.proto
MAX_SHARDS = 99_999
MAX_AXES = 8
BUNDLE_FILE = re.compile(r"\.(index|data-[0-9]{5}-of-[0-9]{5})$")


class Message:
    """The fields of a protocol buffer by their numbers; what they mean is for the reader to know.

    Args:
        data: Its bytes.

    Attributes:
        integers: Fields that are numbers, without sign; of several with one number the last.
        messages: Fields that are bytes: texts or messages again.

    Raises:
        MalformedError: If the bytes are no protocol buffer.
    """

    def __init__(self, data: bytes) -> None:
        self.integers: dict[int, int] = {}
        self.messages: dict[int, list[bytes]] = {}
        reader = ByteReader(data)
        while not reader.at_end:
            number, wire_type = divmod(reader.varint(), 8)
            if wire_type == 0:
                self.integers[number] = reader.varint()
            elif wire_type in (1, 5):
                self.integers[number] = int.from_bytes(reader.take(8 if wire_type == 1 else 4), "little")
            elif wire_type == 2:
                self.messages.setdefault(number, []).append(reader.take(reader.varint()))
            else:
                raise MalformedError(f"a field has the wire type {wire_type}; there are 0, 1, 2 and 5")


class Entry(NamedTuple):
    """Where a tensor is, and what it is.

    Attributes:
        dtype: One of :data:`DTYPES`.
        shape: At least 1 along every axis.
        shard: Number of its data file.
        offset: Its first byte there.
        size: Its bytes, as many as type and shape make.
        checksum: Masked CRC-32C of these.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def index_file(path: str | Path) -> Path:
    """The index of a bundle that is named by its prefix, or by one of its files; whether it exists is not looked at."""
    return Path(BUNDLE_FILE.sub("", str(path)) + ".index")


def is_bundle(path: str | Path) -> bool:
    """Whether a path names a bundle: a file ``.index`` or ``.data-...``, or what both begin with."""
    if BUNDLE_FILE.search(str(path)):
        return True
    return not Path(path).is_file() and index_file(path).is_file()


def bundle_files(path: str | Path) -> list[Path]:
    """The index and the data files of a bundle, which are all there.

    Raises:
        CheckpointError: See :func:`read_bundle`.
    """
    index = index_file(path)
    return [index, *_data_files(index, _header(index, read_table(index)))]


def read_bundle(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a bundle by their names, every checksum verified.

    Args:
        path: What the names of its files begin with (as TensorFlow wants it), or one of the files.

    Returns:
        float32, float64, int32 or int64 tensors.

    Raises:
        CheckpointError: If a file is missing, truncated, damaged, compressed or big-endian, or a tensor is of another
            type, cut into slices or not where the index says.
    """
    index = index_file(path)
    table = read_table(index)
    files = _data_files(index, _header(index, table))
    entries = {}
    for key, value in table.items():
        if key:
            name = printable(key.decode("utf-8", "backslashreplace"))
            try:
                entries[key.decode("utf-8")] = _entry(value)
            except (MalformedError, UnicodeDecodeError) as error:
                raise CheckpointError(
                    f"The entry {name} of {index} cannot be used: {error}. Give a checkpoint of the published MixIT "
                    "separation models, or download it again."
                ) from error
    tensors: dict[str, Tensor] = {}
    for number, file in enumerate(files):
        tensors |= _read_shard(file, {name: entry for name, entry in entries.items() if entry.shard == number})
    lost = [name for name in entries if name not in tensors]
    if lost:
        raise CheckpointError(
            f"{index} says that {printable(lost[0])} is in the data file {entries[lost[0]].shard} of {len(files)}, "
            "counted from 0. It is damaged; download it again."
        )
    return {name: tensors[name] for name in entries}


def _header(index: Path, table: dict[bytes, bytes]) -> int:
    """The number of data files."""
    try:
        header = Message(table.get(b"", b""))
    except MalformedError as error:
        raise CheckpointError(f"The header of {index} is damaged ({error}). Download it again.") from error
    if header.integers.get(2, 0) != 0:
        raise CheckpointError(
            f"{index} was written on a big-endian machine. Write the checkpoint again on a little-endian one."
        )
    num_shards = header.integers.get(1, 0)
    if not 1 <= num_shards <= MAX_SHARDS:
        raise CheckpointError(
            f"{index} claims {num_shards} data files and must name 1 to {MAX_SHARDS}: it is damaged or no index of a "
            "TensorFlow checkpoint. Download it again."
        )
    return num_shards


def _data_files(index: Path, num_shards: int) -> list[Path]:
    prefix = str(index).removesuffix(".index")
    files = []
    for number in range(num_shards):
        file = Path(f"{prefix}.data-{number:05d}-of-{num_shards:05d}")
        if not file.is_file():
            raise CheckpointError(f"There is no file {file}, which belongs to {index}. Put it beside the index.")
        files.append(file)
    return files


def _entry(data: bytes) -> Entry:
    entry = Message(data)
    dtype = DTYPES.get(entry.integers.get(1, 0))
    if dtype is None:
        raise MalformedError(
            f"it has TensorFlow's type number {entry.integers.get(1, 0)}; float32 (1), float64 (2), int32 (3) and "
            "int64 (9) are read"
        )
    if 7 in entry.messages:
        raise MalformedError("it is cut into slices (a partitioned variable); only whole tensors are read")
    shape = Message(entry.messages.get(2, [b""])[-1])
    if shape.integers.get(3, 0):
        raise MalformedError("its shape is not known")
    sizes = tuple(Message(axis).integers.get(1, 0) for axis in shape.messages.get(2, []))
    num_bytes = entry.integers.get(5, 0)
    # No axis of 0, so that every size is bounded by the file's.
    if len(sizes) > MAX_AXES or 0 in sizes or math.prod(sizes) * dtype.itemsize != num_bytes:
        raise MalformedError(
            f"it claims {num_bytes} bytes for a {dtype} of shape {printable(sizes)}; shapes have at most {MAX_AXES} "
            "axes of at least 1, and the bytes that follow from them"
        )
    integers = entry.integers
    return Entry(dtype, sizes, integers.get(3, 0), integers.get(4, 0), num_bytes, integers.get(6, 0))


def _read_shard(file: Path, entries: dict[str, Entry]) -> dict[str, Tensor]:
    available = file.stat().st_size
    for name, entry in entries.items():
        if entry.offset + entry.size > available:
            raise CheckpointError(
                f"The tensor {printable(name)} ends at byte {entry.offset + entry.size} of {file}, which has "
                f"{available}. It is truncated; download it again."
            )
    # Tensors that lie on each other could claim any amount of memory.
    claimed = sum(entry.size for entry in entries.values())
    if claimed > available:
        raise CheckpointError(
            f"The tensors of {file} claim {claimed} bytes and it has {available}. The index is damaged; download both "
            "again."
        )
    tensors = {}
    with file.open("rb") as stream:
        for name, entry in entries.items():
            stream.seek(entry.offset)
            data = bytearray(stream.read(entry.size))
            if len(data) != entry.size or masked_crc32c(data) != entry.checksum:
                raise CheckpointError(
                    f"The tensor {printable(name)} in {file} does not have its checksum. It is damaged; download it "
                    "again."
                )
            tensors[name] = torch.frombuffer(data, dtype=entry.dtype).reshape(entry.shape)
    return tensors
