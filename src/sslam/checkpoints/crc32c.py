"""CRC-32C, the checksum of TensorFlow's checkpoints: many stretches of a large array at once, with NumPy.

Shape letters: R runs, L bytes of a run.
"""

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78  # Castagnoli's, lowest bit first
RUN = 512  # bytes; a power of 2
MIN_RUNS = 64  # for fewer, a loop over the bytes is as fast
ALL_ONES = 0xFFFFFFFF

Registers = NDArray[np.uint32]


def _byte_table() -> Registers:
    """The register after one byte, for a register of 0 before it."""
    registers: Registers = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        registers = (registers >> np.uint32(1)) ^ np.where(registers & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return registers


TABLE = _byte_table()
TABLE_LIST: list[int] = TABLE.tolist()  # plain integers are faster one by one


def crc32c(data: bytes | bytearray) -> int:
    """CRC-32C of the bytes, 0 to 2^32 - 1 (RFC 3720, section 12.1: 0xE3069283 for ``b"123456789"``)."""
    register = ALL_ONES
    num_runs = len(data) // RUN if len(data) >= MIN_RUNS * RUN else 0
    if num_runs:
        bytes_RL = np.frombuffer(data, np.uint8, num_runs * RUN).reshape(num_runs, RUN)
        registers_R = np.zeros(num_runs, np.uint32)
        registers_R[0] = register
        for bytes_R in np.ascontiguousarray(bytes_RL.T):
            registers_R = TABLE[bytes_R ^ registers_R.astype(np.uint8)] ^ (registers_R >> 8)
        register = _joined(registers_R)
    for byte in data[num_runs * RUN :]:
        register = TABLE_LIST[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ ALL_ONES


def masked_crc32c(data: bytes | bytearray) -> int:
    """The checksum as LevelDB and TensorFlow store it, so that a checksum of data with checksums is a good one too."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & ALL_ONES


# The register is linear in the register before and in the bytes (with exclusive or as the sum). So the runs can begin
# with a register of 0, and what a run makes of the register before it, as zero bytes do, is added at the end.


def _applied(columns: Registers, registers_R: Registers) -> Registers:
    """A linear map, given by what it makes of each of the 32 bits, of every register."""
    bits = (registers_R[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.asarray(np.bitwise_xor.reduce(bits * columns, axis=1), np.uint32)


def _zero_bytes(number: int) -> Registers:
    """The map that this many zero bytes, a power of 2, are."""
    units = np.uint32(1) << np.arange(32, dtype=np.uint32)
    columns = TABLE[units & 0xFF] ^ (units >> 8)
    while number > 1:
        columns, number = _applied(columns, columns), number // 2
    return columns


RUN_OF_ZEROS = _zero_bytes(RUN)


def _joined(registers_R: Registers) -> int:
    """The register after all runs, by joining neighbours until one is left."""
    columns = RUN_OF_ZEROS
    while len(registers_R) > 1:
        if len(registers_R) % 2:
            registers_R = np.concatenate([np.zeros(1, np.uint32), registers_R])
        registers_R = _applied(columns, registers_R[::2]) ^ registers_R[1::2]
        columns = _applied(columns, columns)
    return int(registers_R[0])
