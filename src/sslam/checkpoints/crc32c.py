"""The checksum of TensorFlow's checkpoints."""

from google_crc32c import value as crc32c


def masked_crc32c(data: bytes | bytearray) -> int:
    """CRC-32C, rotated and shifted as TensorFlow stores it, so that a checksum of checksums is still one."""
    crc = crc32c(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
