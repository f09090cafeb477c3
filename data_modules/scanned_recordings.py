"""Recordings that scenes are made of: where each of them sounds, what is the same audio, and parts of them.

Shape letters: T samples, L frames, R stretches.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sslam.audio import SAMPLE_RATE, AudioFileError, FileProblem, Waveform, decode_audio

FRAME_SECONDS = 0.01
FRAME_SAMPLES = round(FRAME_SECONDS * SAMPLE_RATE)
MIN_PART_FRAMES = 3  # the shortest event: one frame that sounds, and one on each side for the fades
# Below the loudest frame. The tail of a dry sound ends there, and the noise of most microphones lies lower.
SILENCE_DB = 40.0
# Of the loudest frame: whatever sounds in a recording then reaches the -120 dBFS that the decoder asks of a part.
MIN_LEVEL_DB = -80.0
NUM_THREADS = 2  # decoding and resampling release the interpreter's lock


@dataclass(frozen=True)
class ScannedRecording:
    """One audio file, and which of its frames of 10 ms sound."""

    path: str
    num_frames: int
    """Whole frames in the file."""
    stretches: NDArray[np.int32]
    """(R, 2): first frame and the one after the last of each stretch that sounds, in order and apart."""
    fingerprint: str
    """Hash of the decoded samples, the same for files with the same audio."""

    def draw_part(self, rng: np.random.Generator, seconds: float) -> tuple[float, float]:
        """Draw a part that begins and ends where the recording sounds; pauses inside it stay.

        Args:
            rng: Generator of all chance.
            seconds: Longest part, at least 0.03.

        Returns:
            Start and length in seconds. The length lies between 0.03 and `seconds`; 10 ms before the first sounding
            frame and after the last one belong to it, for the fades.
        """
        starts, ends = self.stretches.T
        first, last = self._draw_window(rng, _frames_in(seconds) - 2, int(starts[0]), int(ends[-1]))
        # Shrunk to what sounds in it.
        first = max(first, int(starts[ends > first][0]))
        last = min(last, int(ends[starts < last][-1]))
        first = min(max(0, first - 1), self.num_frames - MIN_PART_FRAMES)
        last = max(min(self.num_frames, last + 1), first + MIN_PART_FRAMES)
        return first * FRAME_SECONDS, min(seconds, (last - first) * FRAME_SECONDS)

    def draw_window(self, rng: np.random.Generator, seconds: float) -> tuple[float, float]:
        """Draw a part in which something sounds, wherever it begins and ends.

        Args:
            rng: Generator of all chance.
            seconds: Length; that of the recording where it is shorter.

        Returns:
            Start and length in seconds.
        """
        first, last = self._draw_window(rng, _frames_in(seconds), 0, self.num_frames)
        return first * FRAME_SECONDS, min(seconds, (last - first) * FRAME_SECONDS)

    def _draw_window(self, rng: np.random.Generator, size: int, low: int, high: int) -> tuple[int, int]:
        """A window of `size` frames between `low` and `high`, or all of it, around some frame that sounds."""
        lengths = np.diff(self.stretches, axis=1)[:, 0]
        frame = np.repeat(self.stretches[:, 1] - np.cumsum(lengths), lengths)[drawn := rng.integers(lengths.sum())]
        first = max(low, min(int(frame + drawn) - int(rng.integers(size)), high - size))
        return first, min(high, first + size)


def _frames_in(seconds: float) -> int:
    return max(MIN_PART_FRAMES, math.ceil(seconds / FRAME_SECONDS - 1e-6))


def scan_recording(path: str) -> tuple[ScannedRecording, FileProblem | None]:
    """Decode a file and see where it sounds: frames whose energy is at most 40 dB below that of the loudest one.

    Returns:
        The recording, and the problem that was repaired, if there was one.

    Raises:
        AudioFileError: If it cannot be used: unreadable, silent, or shorter than 30 ms.
    """
    waveform_T, problem = decode_audio(path)
    num_frames = len(waveform_T) // FRAME_SAMPLES
    if num_frames < MIN_PART_FRAMES:
        raise AudioFileError(path, f"too short for an event: {1000 * len(waveform_T) / SAMPLE_RATE:.0f} ms")
    power_L = np.square(waveform_T[: num_frames * FRAME_SAMPLES].reshape(num_frames, -1)).mean(axis=1)
    loudest = float(power_L.max())
    if loudest < 10 ** (MIN_LEVEL_DB / 10):
        raise AudioFileError(path, f"silent: no 10 ms of it reach {MIN_LEVEL_DB:.0f} dBFS")
    sounds_L = power_L > loudest * 10 ** (-SILENCE_DB / 10)
    edges = np.flatnonzero(np.diff(sounds_L.astype(np.int8), prepend=0, append=0))
    fingerprint = blake2b(waveform_T.tobytes(), digest_size=16).hexdigest()
    return ScannedRecording(path, num_frames, edges.reshape(-1, 2).astype(np.int32), fingerprint), problem


def scan_recordings(paths: Sequence[str]) -> tuple[dict[str, ScannedRecording], list[FileProblem]]:
    """Scan all files, with a progress bar where that takes long.

    Returns:
        Usable recordings by path, in the order of `paths`, and what was wrong with the others and with repaired ones.
    """

    def scan(path: str) -> tuple[ScannedRecording | None, FileProblem | None]:
        try:
            return scan_recording(path)
        except AudioFileError as error:
            return None, error.problem

    recordings: dict[str, ScannedRecording] = {}
    problems: list[FileProblem] = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        results = tqdm(pool.map(scan, paths), "recordings", len(paths), unit=" files", disable=None, leave=False)
        for recording, problem in results:
            if recording is not None:
                recordings[recording.path] = recording
            if problem is not None:
                problems.append(problem)
    return recordings, problems


def read_part(path: str, start_seconds: float, num_samples: int) -> Waveform:
    """A part of a recording (num_samples,), 16 kHz mono; zeros follow where the file ends a little early.

    Raises:
        AudioFileError: If the file can no longer be read.
    """
    waveform_T, _ = decode_audio(path, SAMPLE_RATE, start_seconds, num_samples / SAMPLE_RATE)
    return np.pad(waveform_T, (0, num_samples - len(waveform_T)))
