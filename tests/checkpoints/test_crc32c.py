"""CRC-32C as TensorFlow stores it."""

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from sslam.checkpoints.crc32c import masked_crc32c


def test_masked_crc32c__is_rotated_and_shifted() -> None:
    # 0xE3069283 is the checksum of these bytes in RFC 3720, section 12.1.
    assert masked_crc32c(b"123456789") == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("size", [0, 1, 4, 511, 4096, 40_001])
def test_masked_crc32c__any_length_equals_tensorboards(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert masked_crc32c(data) == masked_crc32c(bytearray(data)) == pywrap_tensorflow.masked_crc32c(data)
