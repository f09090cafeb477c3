"""Files that libsndfile does not read (m4a, webm, ...), where torchcodec with FFmpeg is installed.

These are no dependencies of this package: torchcodec needs an FFmpeg of the system, which few machines have.
"""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

FFMPEG_EXTENSIONS = (".m4a", ".webm", ".mp4", ".aac", ".mka", ".wma")


class FFmpegError(Exception):
    """A file cannot be decoded; the text says why, in a few words."""


class DecodedFile:
    """A file that is decoded already, with what the reader uses of :class:`soundfile.SoundFile`.

    Attributes:
        samplerate: Rate in Hz.
        frames: Samples per channel.

    Args:
        samples_TC: All samples, float32.
        samplerate: Rate in Hz.
    """

    format = "FFMPEG"
    subtype = ""
    extra_info = ""

    def __init__(self, samples_TC: NDArray[np.float32], samplerate: int) -> None:
        self._samples_TC = samples_TC
        self._position = 0
        self.samplerate = samplerate
        self.frames = len(samples_TC)

    def seek(self, frame: int) -> None:
        """Go to a frame."""
        self._position = frame

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = False) -> NDArray[np.float32]:
        """The next frames, (T,) of one channel or (T, C); fewer at the end."""
        taken_TC = self._samples_TC[self._position : self._position + frames]
        self._position += len(taken_TC)
        return taken_TC[:, 0] if taken_TC.shape[1] == 1 and not always_2d else taken_TC

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_with_ffmpeg(path: str) -> DecodedFile:
    """Decode a file as a whole.

    Raises:
        FFmpegError: If there is no such file, torchcodec or FFmpeg is not installed, or they cannot decode it.
    """
    if not Path(path).is_file():
        raise FFmpegError("no such file")
    if Path(path).stat().st_size == 0:
        raise FFmpegError("empty (0 bytes)")
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:  # what it says without a fitting FFmpeg differs by version
        suffix = Path(path).suffix.lower().lstrip(".")
        raise FFmpegError(
            f"{suffix} files need torchcodec with FFmpeg, which are not installed here; install them, or convert it to "
            "wav, flac, mp3, ogg or opus"
        ) from error
    try:
        samples = AudioDecoder(path).get_all_samples()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".").lower()
        raise FFmpegError(f"unreadable ({reason or 'not in a known audio format'})") from error
    return DecodedFile(samples.data.T.contiguous().numpy(), int(samples.sample_rate))
