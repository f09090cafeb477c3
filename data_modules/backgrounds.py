"""What is heard behind the events of a scene: coloured noise, nothing, or recordings.

Shape letters: T samples.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_modules.scanned_recordings import ScannedRecording, read_part
from data_modules.sound_events import colored_noise
from sslam.audio import SAMPLE_RATE, Waveform


class Backdrop(NamedTuple):
    """The background of one scene."""

    waveform: Waveform
    """(T,) of RMS 1, or zeros."""
    source_file: str = ""
    """Recording that it is cut from; empty where it is none."""
    source_time: float = 0.0
    """Where it starts in the recording, in seconds."""


class Background(ABC):
    """Backgrounds for :class:`~data_modules.soundscapes.SceneRenderer`; all chance is the generator's."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, num_samples: int) -> Backdrop:
        """A background of T = num_samples."""


class ColoredNoise(Background):
    """Noise whose spectrum falls by something between 0 and 6 dB per octave above a random corner."""

    def draw(self, rng: np.random.Generator, num_samples: int) -> Backdrop:
        waveform_T = colored_noise(rng, num_samples)
        waveform_T *= 1 / rms(waveform_T)
        return Backdrop(waveform_T)


class Silence(Background):
    """No background: the SNR of an event is then its level over one that all scenes share."""

    def draw(self, rng: np.random.Generator, num_samples: int) -> Backdrop:
        return Backdrop(np.zeros(num_samples, np.float32))


class RecordedBackgrounds(Background):
    """Parts of recordings, all equally likely; a recording shorter than the scene is continued by its mirror image.

    Args:
        recordings: Recordings, at least one.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, recordings: Sequence[ScannedRecording]) -> None:
        if not recordings:
            raise ValueError("A background needs at least one recording, got none. Give a folder with more recordings.")
        self.recordings = recordings

    def draw(self, rng: np.random.Generator, num_samples: int) -> Backdrop:
        recording = self.recordings[int(rng.integers(len(self.recordings)))]
        start, seconds = recording.draw_window(rng, num_samples / SAMPLE_RATE)
        part_T = read_part(recording.path, start, round(seconds * SAMPLE_RATE))
        waveform_T = np.pad(part_T, (0, num_samples - len(part_T)), mode="symmetric")
        waveform_T *= 1 / rms(waveform_T)
        return Backdrop(waveform_T, recording.path, start)


def rms(waveform_T: Waveform) -> np.float32:
    """Root of the mean square."""
    return np.float32(math.sqrt(np.dot(waveform_T, waveform_T) / len(waveform_T)))
