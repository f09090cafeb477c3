"""Mp3 files as they are met: whole, damaged, and inside wav."""

import struct
from pathlib import Path

import numpy as np
import soundfile


def write_mp3(path: Path, waveform: np.ndarray, rate: int, quality: float = 0.5) -> None:
    """An mp3 file, or mp3 inside wav where the name ends so; `quality` from 0, best, to 1."""
    plain = path.with_suffix(".plain.mp3")
    soundfile.write(plain, waveform, rate, format="MP3", compression_level=quality)
    stream = plain.read_bytes()
    plain.unlink()
    path.write_bytes(in_wav(stream, rate) if path.suffix == ".wav" else stream)


def in_wav(stream: bytes, rate: int) -> bytes:
    """An mp3 stream of one channel as the data of a wav file (format tag 0x55)."""
    layer_3 = struct.pack("<HHIHHH", 12, 1, 2, 417, 1, 1393)
    form = struct.pack("<HHIIHH", 0x55, 1, rate, 16_000, 1, 0) + layer_3
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def damage(path: Path, share: float = 0.5, num_bytes: int = 200) -> None:
    """Overwrites a part of the stream, from a share of the file on."""
    data = bytearray(path.read_bytes())
    start = round(share * len(data))
    data[start : start + num_bytes] = np.random.default_rng(0).integers(0, 256, num_bytes, np.uint8).tobytes()
    path.write_bytes(data)
