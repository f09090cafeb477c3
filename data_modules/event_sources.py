"""What the events of scenes are made of: procedural sounds, or recordings with classes.

Shape letters: T samples, N events.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from data_modules.scanned_recordings import ScannedRecording, read_part
from data_modules.sound_events import CLASS_NAMES, SOUND_EVENTS
from sslam.audio import Waveform


class Sound(NamedTuple):
    """What an event is going to sound like: drawn before anything is rendered or decoded."""

    label: int
    seconds: float
    """Length, at most the one that was asked for."""
    source_file: str = ""
    """Recording that it is cut from; empty for a procedural sound."""
    source_time: float = 0.0
    """Where it starts in the recording, in seconds."""


class EventSource(ABC):
    """Sounds of some classes, for :class:`~data_modules.soundscapes.SceneRenderer`; all chance is the generator's."""

    class_names: Sequence[str]
    labels: Collection[int]
    """Columns of the classes that can be drawn."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, seconds_N: Sequence[float]) -> list[Sound]:
        """Choose a sound for each of N events, given how long each may be, from 0.03 s up."""

    @abstractmethod
    def render(self, rng: np.random.Generator, sound: Sound, num_samples: int) -> Waveform:
        """The sound (T,), T = num_samples, at 16 kHz and of any level above silence."""


class SyntheticEvents(EventSource):
    """The fourteen procedural kinds of :mod:`data_modules.sound_events`, all equally likely, of any length."""

    class_names = CLASS_NAMES
    labels = range(len(CLASS_NAMES))

    def draw(self, rng: np.random.Generator, seconds_N: Sequence[float]) -> list[Sound]:
        labels_N = rng.integers(len(SOUND_EVENTS), size=len(seconds_N))
        return [Sound(int(label), seconds) for label, seconds in zip(labels_N, seconds_N, strict=True)]

    def render(self, rng: np.random.Generator, sound: Sound, num_samples: int) -> Waveform:
        return SOUND_EVENTS[sound.label](rng, num_samples)


class RecordedEvents(EventSource):
    """Parts of recordings: first a class is drawn, each being equally likely, then one of its recordings.

    A part begins and ends where the recording sounds, so that onset and offset are true to about 20 ms; pauses inside
    belong to the event. A recording that is shorter than the event may be gives a shorter event.

    Args:
        class_names: Names of all classes, also of those without a recording here.
        recordings: Recordings, at least one.
        labels: Column of the class of each recording.

    Raises:
        ValueError: If there is no recording.
    """

    def __init__(
        self, class_names: Sequence[str], recordings: Sequence[ScannedRecording], labels: Sequence[int]
    ) -> None:
        if not recordings:
            raise ValueError("Events need at least one recording, got none. Give a folder with more recordings.")
        self.class_names = class_names
        by_class: dict[int, list[ScannedRecording]] = {}
        for recording, label in zip(recordings, labels, strict=True):
            by_class.setdefault(label, []).append(recording)
        self.recordings = sorted(by_class.items())
        self.labels = sorted(by_class)

    def draw(self, rng: np.random.Generator, seconds_N: Sequence[float]) -> list[Sound]:
        sounds = []
        for seconds in seconds_N:
            label, recordings = self.recordings[int(rng.integers(len(self.recordings)))]
            recording = recordings[int(rng.integers(len(recordings)))]
            start, length = recording.draw_part(rng, seconds)
            sounds.append(Sound(label, length, recording.path, start))
        return sounds

    def render(self, rng: np.random.Generator, sound: Sound, num_samples: int) -> Waveform:
        return read_part(sound.source_file, sound.source_time, num_samples)
