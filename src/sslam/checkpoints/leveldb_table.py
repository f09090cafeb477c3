"""Tables of keys and values as LevelDB writes them (its ``doc/table_format.md``), read whole and checked.

A table is a row of blocks and, at the end, a footer that tells where the index block is, which tells where the others
are. A key is stored without the beginning that it shares with the key before it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sslam.checkpoints.crc32c import masked_crc32c
from sslam.errors import CheckpointError

FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
TRAILER_BYTES = 5  # behind every block: how it is compressed, checksum
COMPRESSIONS = {1: "Snappy", 2: "Zstandard"}
MAX_TABLE_BYTES = 64 * 2**20  # of a file, and of its keys; the index of a large model has 1e5
MAX_KEY_BYTES = 4096


class MalformedError(ValueError):
    """Bytes that are not what the format asks for; whoever knows the file makes it a CheckpointError."""


class ByteReader:
    """Reads one thing after the other and never behind the end.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def at_end(self) -> bool:
        return self._position == len(self._data)

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            MalformedError: If there are not so many.
        """
        left = len(self._data) - self._position
        if size > left:
            raise MalformedError(f"it claims {size} bytes where {left} are left")
        self._position += size
        return self._data[self._position - size : self._position]

    def varint(self) -> int:
        """The next whole number, 0 to 2^64 - 1: seven bits a byte, the lowest first, the eighth says that more follow.

        Raises:
            MalformedError: If it does not end, or is larger.
        """
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 2**64:
                    break
                return value
        raise MalformedError("a number in it has more than 64 bits")


class BlockHandle(NamedTuple):
    """Where a block is in the file, in bytes, its trailer not counted."""

    offset: int
    size: int

    @classmethod
    def read(cls, reader: ByteReader) -> "BlockHandle":
        return cls(reader.varint(), reader.varint())


def read_table(path: Path) -> dict[bytes, bytes]:
    """All keys and values, in the order of the file.

    Raises:
        CheckpointError: If there is no such file, it is no table, or it is damaged, compressed or too large.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. A TensorFlow checkpoint has an .index file beside its data.")
    size = path.stat().st_size
    if size > MAX_TABLE_BYTES:
        raise CheckpointError(
            f"{path} has {size} bytes; the index of a checkpoint has at most {MAX_TABLE_BYTES}. Give the .index file."
        )
    data = path.read_bytes()
    if len(data) < FOOTER_BYTES or int.from_bytes(data[-8:], "little") != MAGIC:
        raise CheckpointError(
            f"{path} does not end as the index of a TensorFlow checkpoint: it is truncated or something else. Download "
            "it again, or give the .index file."
        )
    try:
        return _read(data)
    except MalformedError as error:
        raise CheckpointError(f"{path} cannot be used: {error}. Download it again.") from error


def _read(data: bytes) -> dict[bytes, bytes]:
    footer = ByteReader(data[-FOOTER_BYTES:])
    _block(data, BlockHandle.read(footer))  # of filters, which TensorFlow does not write
    table: dict[bytes, bytes] = {}
    last_key, key_bytes = b"", 0
    for _, handle in _entries(_block(data, BlockHandle.read(footer))):
        for key, value in _entries(_block(data, BlockHandle.read(ByteReader(handle)))):
            if table and key <= last_key:
                raise MalformedError(f"the key {key[:80]!r} comes twice or out of order")
            # Shared beginnings could make few bytes into endless keys.
            key_bytes += len(key)
            if key_bytes > MAX_TABLE_BYTES:
                raise MalformedError(f"its keys have more than {MAX_TABLE_BYTES} bytes")
            table[key], last_key = value, key
    return table


def _block(data: bytes, handle: BlockHandle) -> bytes:
    end = handle.offset + handle.size
    if end + TRAILER_BYTES > len(data) - FOOTER_BYTES:
        raise MalformedError(f"a block is said to end at byte {end + TRAILER_BYTES} of {len(data)}")
    checksum = int.from_bytes(data[end + 1 : end + TRAILER_BYTES], "little")
    if masked_crc32c(data[handle.offset : end + 1]) != checksum:
        raise MalformedError(f"the block at byte {handle.offset} does not have its checksum")
    compression = data[end]
    if compression:
        name = COMPRESSIONS.get(compression, f"type {compression}")
        raise MalformedError(
            f"the block at byte {handle.offset} is compressed ({name}); TensorFlow leaves them uncompressed"
        )
    return data[handle.offset : end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    # Entries, then positions where no beginning is shared (for searching), then the number of these.
    num_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (num_restarts + 1)
    if end < 0:
        raise MalformedError(f"a block of {len(block)} bytes claims {num_restarts} restart points")
    reader = ByteReader(block[:end])
    key = b""
    while not reader.at_end:
        shared, unshared, value_size = reader.varint(), reader.varint(), reader.varint()
        if shared > len(key) or shared + unshared > MAX_KEY_BYTES:
            raise MalformedError(
                f"a key claims {shared + unshared} bytes, {shared} of them of the one before, which has {len(key)}; "
                f"{MAX_KEY_BYTES} are allowed"
            )
        key = key[:shared] + reader.take(unshared)
        yield key, reader.take(value_size)
