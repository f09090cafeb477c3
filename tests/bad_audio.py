"""More than fifty kinds of bad audio files, as they lie about in folders."""

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def encoded(extension: str, seconds: float = 1.0) -> bytes:
    """A good file of noise."""
    stream = io.BytesIO()
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, round(seconds * RATE))
    soundfile.write(stream, noise, RATE, format=extension.upper())
    return stream.getvalue()


def floats(samples: np.ndarray, subtype: str = "FLOAT") -> bytes:  # type: ignore[type-arg]
    stream = io.BytesIO()
    soundfile.write(stream, samples, RATE, format="WAV", subtype=subtype)
    return stream.getvalue()


def patched(offset: int, form: str, *values: int) -> bytes:
    """A wav file with other numbers in its header."""
    data = bytearray(encoded("wav"))
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("clip.wav", encoded("wav"))
    return stream.getvalue()


NOISE = np.random.default_rng(4).uniform(-0.5, 0.5, RATE)
RANDOM = np.random.default_rng(5).bytes(20_000)
NO_AUDIO = b"no audio at all " * 200

CONTENTS: dict[str, bytes] = {
    # nothing in them
    "empty.wav": b"",
    "empty_flac.flac": b"",
    "empty_mp3.mp3": b"",
    "header_alone.wav": encoded("wav")[:44],
    "half_a_header.wav": encoded("wav")[:20],
    "four_bytes.wav": b"RIFF",
    "header_alone_ogg.ogg": encoded("ogg")[:58],
    "header_alone_flac.flac": encoded("flac")[:42],
    "tag_alone.mp3": b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10),
    "silent.flac": floats(np.zeros(0)),
    "zeros.mp3": bytes(10_000),
    # something else in them
    "random.wav": RANDOM,
    "random_flac.flac": RANDOM,
    "random_ogg.ogg": RANDOM,
    "random_opus.opus": RANDOM,
    "random_mp3.mp3": b"\x00" + RANDOM.replace(b"\xff", b"\x00"),
    "random_after_header.flac": encoded("flac")[:42] + RANDOM,
    "text.wav": NO_AUDIO,
    "page.mp3": b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20,
    "archive.wav": zipped(),
    "compressed.wav": gzip.compress(encoded("wav")),
    "picture.flac": b"\x89PNG\r\n\x1a\n" + RANDOM[:500],
    "pickle.wav": b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
    "shouting.WAV": NO_AUDIO,
    "letters.wav": "Ärgerlich — это не звук".encode() * 100,
    # headers that lie
    "no_channels.wav": patched(22, "<H", 0),
    "many_channels.wav": patched(22, "<H", 65_535),
    "rate_0.wav": patched(24, "<I", 0),
    "rate_1.wav": patched(24, "<I", 1),
    "rate_4_billion.wav": patched(24, "<I", 0xFFFFFFFF),
    "codec_unknown.wav": patched(20, "<H", 0x7777),
    "no_bits.wav": patched(34, "<H", 0),
    "bits_77.wav": patched(34, "<H", 77),
    "no_data_chunk.wav": encoded("wav")[:36] + b"junk" + encoded("wav")[40:],
    # samples that are none
    "nan.wav": floats(np.full(RATE, np.nan)),
    "one_nan.wav": floats(np.where(np.arange(RATE) == 99, np.nan, NOISE)),
    "infinite.wav": floats(np.where(np.arange(RATE) == 99, np.inf, NOISE)),
    "minus_infinite.wav": floats(np.full(RATE, -np.inf)),
    "absurd.wav": floats(1e30 * NOISE),
    "absurd_double.wav": floats(1e300 * NOISE, "DOUBLE"),
    "one_absurd.wav": floats(np.where(np.arange(RATE) == 99, 1e9, NOISE)),
    "one_sample.wav": floats(np.ones(1)),
    "twelve_samples.wav": floats(NOISE[:12]),
    # names
    "a\nline.wav": NO_AUDIO,
    "\x1b[31mred.wav": NO_AUDIO,
    "=1+1.wav": NO_AUDIO,
    "-rf.wav": NO_AUDIO,
    "a,\"b\";'c'.wav": NO_AUDIO,
    "$HOME.wav": NO_AUDIO,
    "%s%n.wav": NO_AUDIO,
    "🎵.wav": NO_AUDIO,
    os.fsdecode(b"latin-\xe9.wav"): NO_AUDIO,
    f"{'long' * 60}.wav": NO_AUDIO,
}
REPAIRED: dict[str, bytes] = {
    "truncated.wav": encoded("wav", 3.0)[: 2 * RATE],
    "truncated_flac.flac": encoded("flac", 3.0)[: 2 * RATE],
}
# As programs write them that do not know the length in advance: good.
UNKNOWN_LENGTH: dict[str, bytes] = {"promises_2_gb.wav": patched(40, "<I", 0x7FFFFFF0)}
SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe.wav": os.mkfifo,
    "endless.wav": lambda path: path.symlink_to("/dev/zero"),
    "loop.wav": lambda path: path.symlink_to(path.name),
    "nowhere.wav": lambda path: path.symlink_to("not_there.wav"),
}
# No file to anybody who looks for files.
FOLDERS: dict[str, Callable[[Path], None]] = {
    "folder.wav": Path.mkdir,
    "again": lambda path: path.symlink_to(path.parent),
}
SKIPPED = (*CONTENTS, *SPECIAL)


def write_bad_audio(folder: Path) -> None:
    """All of them into one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (CONTENTS | REPAIRED | UNKNOWN_LENGTH).items():
        (folder / name).write_bytes(content)
    for name, make in (SPECIAL | FOLDERS).items():
        make(folder / name)
