"""CRC-32C against the standard's vectors and TensorBoard's implementation."""

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from sslam.checkpoints.crc32c import MIN_RUNS, RUN, crc32c, masked_crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c__vectors_of_rfc_3720(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


def test_masked_crc32c__is_rotated_and_shifted() -> None:
    assert masked_crc32c(b"123456789") == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize(
    "size", [1, RUN, MIN_RUNS * RUN - 1, MIN_RUNS * RUN, MIN_RUNS * RUN + 1, (MIN_RUNS + 1) * RUN, 100_003]
)
def test_crc32c__any_length_equals_tensorboards(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == crc32c(bytearray(data)) == pywrap_tensorflow.crc32c(data)
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


def test_crc32c__one_bit_anywhere_changes_it() -> None:
    data = bytearray(np.random.default_rng(0).bytes(80_000))
    right = crc32c(data)
    for position in range(0, len(data), 4999):
        data[position] ^= 1
        assert crc32c(data) != right
        data[position] ^= 1
    assert crc32c(data) == right
