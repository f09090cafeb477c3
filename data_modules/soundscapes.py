"""Soundscapes: polyphonic scenes rendered on the fly, the built-in data that needs no download.

Shape letters: B clips, N sources, T samples, C classes, E events.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data_modules.base import STAGE_SPLITS, AudioDataModule, Sample
from data_modules.events import clip_polyphony
from data_modules.listing import Listing
from data_modules.sampler import Request
from data_modules.sound_events import CLASS_NAMES, SOUND_EVENTS, colored_noise
from sslam.audio import SAMPLE_RATE, Waveform
from sslam.checks import at_least

FADE = np.linspace(0, 1, 160, dtype=np.float32)  # 10 ms: an event does not start with a click
MIN_EVENT_SECONDS = 0.03
COMMON_SECONDS = 0.02  # how long a scene's full polyphony lasts at least
NO_EVENT = -1.0  # fills the rows of the event table that a scene does not need


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


class SceneRenderer:
    """Draws and renders scenes of one kind; the arguments are those of :class:`SoundscapesDataModule`."""

    def __init__(
        self,
        clip_seconds: float = 10.0,
        events_per_scene: tuple[int, int] = (1, 6),
        polyphony: tuple[int, int] = (1, 4),
        event_seconds: tuple[float, float] = (0.5, 4.0),
        snr_db: tuple[float, float] = (5.0, 25.0),
    ) -> None:
        for name, (low, high), least in (
            ("events_per_scene", events_per_scene, 1),
            ("polyphony", polyphony, 1),
            ("event_seconds", event_seconds, MIN_EVENT_SECONDS),
            ("snr_db", snr_db, -60),
        ):
            if not least <= low <= high:
                raise ValueError(f"{name} must be a pair (least, most) from {least} up, got ({low}, {high}).")
        if polyphony[0] > events_per_scene[0]:
            raise ValueError(
                f"A scene of {events_per_scene[0]} event(s) cannot have a polyphony of {polyphony[0]}. "
                "Raise the first number of events_per_scene or lower that of polyphony."
            )
        # The narrowest slot that `draw_events` can give an event: a third of a lane's mean in the worst case.
        if clip_seconds / (3 * (math.ceil(events_per_scene[1] / polyphony[0]) + 4)) < MIN_EVENT_SECONDS:
            raise ValueError(
                f"{events_per_scene[1]} events with a polyphony of {polyphony[0]} do not fit into {clip_seconds} s. "
                "Lower events_per_scene, or raise polyphony or clip_seconds."
            )
        self.clip_seconds = clip_seconds
        self.num_samples = round(clip_seconds * SAMPLE_RATE)
        self.events_per_scene = events_per_scene
        self.polyphony = polyphony
        self.event_seconds = event_seconds
        self.snr_db = snr_db

    def render(self, rng: np.random.Generator, with_stems: bool = False) -> Scene:
        """Render one scene; the generator alone decides what it holds."""
        events = self.draw_events(rng)
        waveform = colored_noise(rng, self.num_samples)
        waveform *= 1 / _rms(waveform)
        background = waveform.copy() if with_stems else None
        stems = np.zeros((len(events), self.num_samples), np.float32) if with_stems else None
        for number, (onset, offset, label) in enumerate(events):
            span = slice(round(float(onset) * SAMPLE_RATE), round(float(offset) * SAMPLE_RATE))
            event = SOUND_EVENTS[int(label)](rng, span.stop - span.start)
            event[: len(FADE)] *= FADE
            event[-len(FADE) :] *= FADE[::-1]
            event *= np.float32(10 ** (rng.uniform(*self.snr_db) / 20) / _rms(event))
            waveform[span] += event
            if stems is not None:
                stems[number, span] = event
        # One gain for everything, so that the parts still add up to the whole.
        gain = np.float32(10 ** (rng.uniform(-14, -1) / 20) / max(waveform.max(), -waveform.min()))
        for part in (waveform, background, stems):
            if part is not None:
                part *= gain
        return Scene(waveform, events, background, stems)

    def draw_events(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Events (N, 3) sorted by onset, of which exactly the drawn polyphony sounds at once at the most.

        There are as many lanes as the polyphony. The events of a lane follow each other, and one event of every lane
        sounds at one common moment.
        """
        num_events = int(rng.integers(self.events_per_scene[0], self.events_per_scene[1] + 1))
        most = min(self.polyphony[1], num_events)
        num_lanes = int(rng.integers(self.polyphony[0], most + 1))
        moment = rng.uniform(0.3, 0.7) * self.clip_seconds
        events = []
        for lane in range(num_lanes):
            size = len(range(lane, num_events, num_lanes))
            before = round((size - 1) * moment / self.clip_seconds)
            left = _slots(rng, 0.0, moment, before + 1)
            right = _slots(rng, moment, self.clip_seconds, size - before)
            # The last slot before the moment and the first one after it make one slot, of the event that is common.
            start, end = left[-2], right[1]
            length = min(end - start, rng.uniform(*self.event_seconds))
            earliest = max(start, moment + COMMON_SECONDS / 2 - length)
            latest = min(moment - COMMON_SECONDS / 2, end - length)
            onset = earliest + rng.random() * (latest - earliest)
            events.append((onset, onset + length))
            for start, end in [*pairwise(left[:-1]), *pairwise(right[1:])]:
                length = min(end - start, rng.uniform(*self.event_seconds))
                onset = start + rng.random() * (end - start - length)
                events.append((onset, onset + length))
        labels = rng.integers(len(SOUND_EVENTS), size=len(events))
        return np.array(sorted((*event, label) for event, label in zip(events, labels, strict=True)), np.float32)


def _slots(rng: np.random.Generator, start: float, end: float, count: int) -> NDArray[np.float64]:
    """Borders (count + 1,) of slots of random width, the widest at most three times the narrowest."""
    widths = rng.uniform(0.5, 1.5, count)
    return start + (end - start) * np.concatenate([[0.0], np.cumsum(widths) / widths.sum()])


def _rms(waveform_T: Waveform) -> np.float32:
    return np.float32(math.sqrt(np.dot(waveform_T, waveform_T) / len(waveform_T)))


class SoundscapesDataset(Dataset[Sample]):
    """Scenes by index: the same (seed, split, index) gives the same scene in every process.

    Args:
        renderer: Renderer of the scenes.
        num_scenes: Size of the set.
        split: Number that keeps training, validation and test scenes apart.
        seed: Seed of the scenes.
        fresh_each_epoch: Whether epoch e gives the scenes e * num_scenes and following instead of the first ones again.
        return_stems: Whether to add `stems` (N, T) and `background` (T,), which sum up to `waveform`.
        return_events: Whether to add `events` (N, 3): onset and offset in seconds, class; rows of -1 are empty.
    """

    def __init__(
        self,
        renderer: SceneRenderer,
        num_scenes: int,
        split: int,
        seed: int = 0,
        fresh_each_epoch: bool = False,
        return_stems: bool = False,
        return_events: bool = False,
    ) -> None:
        self.renderer = renderer
        self.num_scenes = num_scenes
        self.split = split
        self.seed = seed
        self.fresh_each_epoch = fresh_each_epoch
        self.return_stems = return_stems
        self.return_events = return_events

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, request: Request | int) -> Sample:
        """One scene, for an index or a pair (index, epoch), with `polyphony` and multi-hot `labels` (C,)."""
        index, epoch = request if isinstance(request, tuple) else (request, 0)
        number = index + epoch * self.num_scenes if self.fresh_each_epoch else index
        scene = self.renderer.render(self._generator(number), self.return_stems)
        labels = torch.zeros(len(SOUND_EVENTS))
        labels[scene.events[:, 2].astype(np.int64)] = 1
        sample: Sample = {
            "waveform": torch.from_numpy(scene.waveform),
            "num_samples": len(scene.waveform),
            "index": index,
            "labels": labels,
            "polyphony": clip_polyphony(scene.events),
            "skipped": [],
        }
        missing = self.renderer.events_per_scene[1] - len(scene.events)  # a batch needs one shape
        if scene.stems is not None and scene.background is not None:
            sample["stems"] = torch.from_numpy(np.pad(scene.stems, ((0, missing), (0, 0))))
            sample["background"] = torch.from_numpy(scene.background)
        if self.return_events:
            sample["events"] = torch.from_numpy(np.pad(scene.events, ((0, missing), (0, 0)), constant_values=NO_EVENT))
        return sample

    def num_classes_with_scenes(self) -> int:
        """Classes that occur in the set (in its first epoch); looks at scenes until all classes have been seen."""
        seen: set[int] = set()
        for number in range(self.num_scenes):
            seen.update(self.renderer.draw_events(self._generator(number))[:, 2].astype(int).tolist())
            if len(seen) == len(CLASS_NAMES):
                break
        return len(seen)

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, self.split, number))))


class SoundscapesDataModule(AudioDataModule):
    """Built-in polyphonic scenes: procedural sound events of fourteen classes over coloured noise.

    Nothing is downloaded or stored: every scene is rendered when it is asked for, the same for the same seed and index.

    Args:
        num_train_scenes: Training scenes per epoch.
        num_val_scenes: Validation scenes, always the same; 0 for none.
        num_test_scenes: Test scenes, always the same.
        events_per_scene: Least and most events in a scene.
        polyphony: Least and most of a scene's degree of polyphony, the largest number of events that sound at once. The
            degree is drawn from this range, up to the number of events, and holds exactly.
        event_seconds: Shortest and longest event; a crowded scene has shorter ones.
        snr_db: Range of an event's level over the background, in dB.
        fresh_each_epoch: Whether every epoch has new training scenes; else the same ones again.
        return_stems: Whether to add `stems` float32 (B, N, T), one per event, and `background` (B, T), which sum up to
            `waveform`.
        return_events: Whether to add `events` float32 (B, N, 3): onset and offset in seconds, class; rows of -1 are
            empty.
        **kwargs: Arguments of :class:`~data_modules.base.AudioDataModule`.
    """

    class_names = CLASS_NAMES

    def __init__(
        self,
        num_train_scenes: int = 10_000,
        num_val_scenes: int = 200,
        num_test_scenes: int = 1_000,
        events_per_scene: tuple[int, int] = (1, 6),
        polyphony: tuple[int, int] = (1, 4),
        event_seconds: tuple[float, float] = (0.5, 4.0),
        snr_db: tuple[float, float] = (5.0, 25.0),
        fresh_each_epoch: bool = True,
        return_stems: bool = False,
        return_events: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        at_least(1, num_train_scenes=num_train_scenes, num_test_scenes=num_test_scenes)
        at_least(0, num_val_scenes=num_val_scenes)
        self.num_train_scenes = num_train_scenes
        self.num_val_scenes = num_val_scenes
        self.num_test_scenes = num_test_scenes
        self.fresh_each_epoch = fresh_each_epoch
        self.return_stems = return_stems
        self.return_events = return_events
        self.renderer = SceneRenderer(self.clip_seconds, events_per_scene, polyphony, event_seconds, snr_db)

    @property
    def title(self) -> str:
        return "Soundscapes"

    def make_sets(self, stage: str) -> None:
        self.train_set = self._dataset(self.num_train_scenes, 0, self.fresh_each_epoch)
        self.val_set = self._dataset(self.num_val_scenes, 1) if self.num_val_scenes else None
        self.test_set = self.predict_set = self._dataset(self.num_test_scenes, 2)
        sets = {"training": self.train_set, "validation": self.val_set, "test": self.test_set}
        for split in STAGE_SPLITS[stage]:
            scenes = sets[split]
            if isinstance(scenes, SoundscapesDataset):
                number = len(scenes)
                with_scenes = scenes.num_classes_with_scenes()
                self.listings[split] = Listing(number, number, 0, 0, 0, len(CLASS_NAMES), with_scenes)

    def _dataset(self, num_scenes: int, split: int, fresh_each_epoch: bool = False) -> SoundscapesDataset:
        return SoundscapesDataset(
            self.renderer, num_scenes, split, self.seed, fresh_each_epoch, self.return_stems, self.return_events
        )
