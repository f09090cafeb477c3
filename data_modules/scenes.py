"""Polyphonic scenes: events in time over a background, with the stems that add up to them.

Shape letters: N sources or events, T samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.backgrounds import Backdrop, Background, ColoredNoise, rms
from data_modules.event_sources import EventSource, Sound, SyntheticEvents
from sslam.audio import SAMPLE_RATE, Waveform

FADE = np.linspace(0, 1, 160, dtype=np.float32)  # 10 ms: an event does not start with a click
MIN_EVENT_SECONDS = 0.03
COMMON_SECONDS = 0.02  # how long a scene's full polyphony lasts at least
FULL_SCALE = np.float32(1 - 2**-23)  # what files of 24 bits hold


class Slot(NamedTuple):
    """Time that is free for an event, which may turn out shorter: from `start` to `end`, in seconds.

    The event must sound from `sounds_from` to `sounds_until`; by default it may be anywhere in the slot.
    """

    start: float
    end: float
    sounds_from: float = math.inf
    sounds_until: float = -math.inf


class PlacedSound(NamedTuple):
    """An event of a scene: onset and offset in seconds, class, and what it sounds like."""

    onset: float
    offset: float
    label: int
    sound: Sound


class Scene(NamedTuple):
    """A rendered scene: `waveform` = `background` + the sum of `stems`; the parts are None where not asked for."""

    waveform: Waveform
    """(T,), peak between -14 and -1 dBFS."""
    events: NDArray[np.float32]
    """(N, 3): onset and offset in seconds, class."""
    background: Waveform | None
    """(T,)"""
    stems: Waveform | None
    """(N, T), one row per event, zero outside it."""
    sounds: Sequence[Sound]
    """N, what the events were made of."""
    snr_db: Sequence[float]
    """N, RMS of the event, from onset to offset, over that of the background, or over a level that all scenes share."""
    backdrop: Backdrop
    """What the background was made of."""


@dataclass(frozen=True)
class SceneRenderer:
    """Draws and renders scenes of one kind.

    Raises:
        ValueError: If there cannot be such scenes.
    """

    clip_seconds: float = 10.0
    events_per_scene: tuple[int, int] = (1, 6)
    """Least and most."""
    polyphony: tuple[int, int] = (1, 4)
    """Least and most events that sound at once at the most; drawn up to the number of events, and exact."""
    event_seconds: tuple[float, float] = (0.5, 4.0)
    """Shortest and longest; a crowded scene has shorter ones."""
    snr_db: tuple[float, float] = (5.0, 25.0)
    """Range of an event's level over the background, RMS over RMS; without one, over a level that all scenes share."""
    event_source: EventSource = field(default_factory=SyntheticEvents)
    background: Background = field(default_factory=ColoredNoise)
    stems_fit: bool = False
    """Lower a scene of which a part exceeds full scale, as one may where two cancel each other: files of whole numbers
    can then hold all parts."""

    def __post_init__(self) -> None:
        events_per_scene, polyphony = self.events_per_scene, self.polyphony
        for name, (low, high), least in (
            ("events_per_scene", events_per_scene, 1),
            ("polyphony", polyphony, 1),
            ("event_seconds", self.event_seconds, MIN_EVENT_SECONDS),
            ("snr_db", self.snr_db, -60),
        ):
            if not least <= low <= high:
                raise ValueError(f"{name} must be a pair (least, most) from {least} up, got ({low}, {high}).")
        if polyphony[0] > events_per_scene[0]:
            raise ValueError(
                f"A scene of {events_per_scene[0]} event(s) cannot have a polyphony of {polyphony[0]}. "
                "Raise the first number of events_per_scene or lower that of polyphony."
            )
        # The narrowest slot that `draw_events` can give an event: a third of a lane's mean in the worst case.
        if self.clip_seconds / (3 * (math.ceil(events_per_scene[1] / polyphony[0]) + 4)) < MIN_EVENT_SECONDS:
            raise ValueError(
                f"{events_per_scene[1]} events with a polyphony of {polyphony[0]} do not fit into "
                f"{self.clip_seconds} s. Lower events_per_scene, or raise polyphony or clip_seconds."
            )

    @property
    def num_samples(self) -> int:
        return round(self.clip_seconds * SAMPLE_RATE)

    @property
    def class_names(self) -> Sequence[str]:
        return self.event_source.class_names

    def render(self, rng: np.random.Generator, with_stems: bool = False) -> Scene:
        """Render one scene; the generator alone decides what it holds.

        Raises:
            AudioFileError: If a recording can no longer be read.
        """
        placed = self.draw_events(rng)
        events = event_table(placed)
        backdrop = self.background.draw(rng, self.num_samples)
        waveform = backdrop.waveform.copy()
        background = backdrop.waveform if with_stems else None
        stems = np.zeros((len(events), self.num_samples), np.float32) if with_stems else None
        snrs = []
        peaks = [_peak(backdrop.waveform)] if self.stems_fit else []
        for number, (onset, offset, _) in enumerate(events):
            span = slice(round(float(onset) * SAMPLE_RATE), round(float(offset) * SAMPLE_RATE))
            event = self.event_source.render(rng, placed[number].sound, span.stop - span.start)
            event[: len(FADE)] *= FADE
            event[-len(FADE) :] *= FADE[::-1]
            snrs.append(rng.uniform(*self.snr_db))
            event *= np.float32(10 ** (snrs[-1] / 20) / rms(event))
            waveform[span] += event
            if self.stems_fit:
                peaks.append(_peak(event))
            if stems is not None:
                stems[number, span] = event
        # One gain for everything, so that the parts still add up to the whole.
        gain = np.float32(10 ** (rng.uniform(-14, -1) / 20) / _peak(waveform))
        gain = min([gain, *(FULL_SCALE / peak for peak in peaks if peak)])
        for part in (waveform, background, stems):
            if part is not None:
                part *= gain
        return Scene(waveform, events, background, stems, [event.sound for event in placed], snrs, backdrop)

    def draw_events(self, rng: np.random.Generator) -> list[PlacedSound]:
        """Events sorted by onset, of which exactly the drawn polyphony sounds at once at the most.

        There are as many lanes as the polyphony. The events of a lane follow each other, and one event of every lane
        sounds at one common moment.
        """
        slots = self._draw_slots(rng)
        sounds = self.event_source.draw(rng, [slot.end - slot.start for slot in slots])
        return sorted(_place(rng, slot, sound) for slot, sound in zip(slots, sounds, strict=True))

    def _draw_slots(self, rng: np.random.Generator) -> list[Slot]:
        num_events = int(rng.integers(self.events_per_scene[0], self.events_per_scene[1] + 1))
        most = min(self.polyphony[1], num_events)
        num_lanes = int(rng.integers(self.polyphony[0], most + 1))
        moment = rng.uniform(0.3, 0.7) * self.clip_seconds
        slots = []
        for lane in range(num_lanes):
            size = len(range(lane, num_events, num_lanes))
            before = round((size - 1) * moment / self.clip_seconds)
            left = _borders(rng, 0.0, moment, before + 1)
            right = _borders(rng, moment, self.clip_seconds, size - before)
            # The last slot before the moment and the first one after it make one slot, of the event that is common.
            start, end = left[-2], right[1]
            length = min(end - start, rng.uniform(*self.event_seconds))
            sounds_from, sounds_until = moment - COMMON_SECONDS / 2, moment + COMMON_SECONDS / 2
            earliest = max(start, sounds_until - length)
            latest = min(sounds_from, end - length)
            onset = earliest + rng.random() * (latest - earliest)
            slots.append(Slot(onset, onset + length, sounds_from, sounds_until))
            for start, end in [*pairwise(left[:-1]), *pairwise(right[1:])]:
                length = min(end - start, rng.uniform(*self.event_seconds))
                onset = start + rng.random() * (end - start - length)
                slots.append(Slot(onset, onset + length))
        return slots


def _place(rng: np.random.Generator, slot: Slot, sound: Sound) -> PlacedSound:
    """The sound in its slot, at random where it is shorter."""
    if sound.seconds == slot.end - slot.start:
        return PlacedSound(slot.start, slot.end, sound.label, sound)
    earliest = max(slot.start, slot.sounds_until - sound.seconds)
    latest = min(slot.sounds_from, slot.end - sound.seconds)
    onset = earliest + rng.random() * (latest - earliest)
    return PlacedSound(onset, onset + sound.seconds, sound.label, sound)


def event_table(events: Sequence[PlacedSound]) -> NDArray[np.float32]:
    """Onset and offset in seconds and class, (N, 3)."""
    return np.array([event[:3] for event in events], np.float32).reshape(-1, 3)


def _peak(waveform_T: Waveform) -> np.float32:
    return np.float32(max(waveform_T.max(), -waveform_T.min()))


def _borders(rng: np.random.Generator, start: float, end: float, count: int) -> NDArray[np.float64]:
    """Borders (count + 1,) of slots of random width, the widest at most three times the narrowest."""
    widths = rng.uniform(0.5, 1.5, count)
    return start + (end - start) * np.concatenate([[0.0], np.cumsum(widths) / widths.sum()])
