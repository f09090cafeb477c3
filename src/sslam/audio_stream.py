"""Long files block by block, so that memory does not grow with their length."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import soundfile
import soxr

from sslam.audio import (
    LENGTH_TOLERANCE_SECONDS,
    MIN_PEAK,
    AudioFileError,
    FileProblem,
    Waveform,
    _lost_wav_frames,
    _open,
)
from sslam.audio_ffmpeg import DecodedFile
from sslam.decoder_notes import decoder_notes

BLOCK_FRAMES = 2**16  # decoded at once; so much is lost where a file breaks off


class AudioStream:
    """A file as blocks of mono float32 samples at one rate, read once from its beginning.

    Attributes:
        problem: What was repaired, if anything; known when all blocks are read.
        seconds: Length of what was read so far.

    Args:
        path: Path of a file that :func:`~sslam.audio.decode_audio` reads.
        sample_rate: Rate of the blocks in Hz.
    """

    def __init__(self, path: str, sample_rate: int) -> None:
        self.path = path
        self.sample_rate = sample_rate
        self.problem: FileProblem | None = None
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Waveform]:
        """Blocks (T,), none of them empty.

        Raises:
            AudioFileError: If the file is missing, empty, unreadable, silent, or not finite. Of a silent file this is
                known at its end.
        """
        file, notes = _open(self.path)
        with file:
            resampler = soxr.ResampleStream(file.samplerate, self.sample_rate, 1, dtype="float32")
            num_read, peak = 0, 0.0
            for block in self._decoded(file, notes):
                num_read += len(block)
                peak = max(peak, float(block.max()), -float(block.min()))
                if not math.isfinite(block.max()) or not math.isfinite(block.min()):
                    raise AudioFileError(self.path, "it holds NaN or infinite samples")
                yield from self._kept(block if file.samplerate == self.sample_rate else resampler.resample_chunk(block))
            if file.samplerate != self.sample_rate:
                yield from self._kept(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            lost = file.frames - num_read + _lost_wav_frames(file)
            if lost > LENGTH_TOLERANCE_SECONDS * file.samplerate:
                reason = "truncated: the header promises more than can be decoded"
                self.problem = FileProblem(self.path, reason, "repaired")
            elif notes:
                self.problem = FileProblem(self.path, f'damaged: its decoder says "{notes[0]}"', "repaired")
        if peak < MIN_PEAK:
            raise AudioFileError(self.path, "silent: no sample reaches -120 dBFS")

    def _decoded(self, file: soundfile.SoundFile | DecodedFile, notes: list[str]) -> Iterator[Waveform]:
        """Blocks at the file's own rate, to its end or where it breaks off."""
        is_mp3 = file.subtype == "MPEG_LAYER_III"  # also inside wav
        while True:
            catching: AbstractContextManager[list[str]] = decoder_notes() if is_mp3 else nullcontext([])
            with catching as said:
                try:
                    frames = file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
                except soundfile.LibsndfileError:
                    return
            notes += said
            if not len(frames):
                return
            yield frames.mean(axis=1) if frames.shape[1] > 1 else frames[:, 0]

    def _kept(self, block: Waveform) -> Iterator[Waveform]:
        if len(block):
            self.seconds += len(block) / self.sample_rate
            yield block
