"""Soundscapes: polyphonic scenes rendered on the fly, the built-in data that needs no download.

Shape letters: B clips, N sources, T samples, C classes, E events.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data_modules.audio_file_dataset import Sample
from data_modules.base import STAGE_SPLITS, AudioDataModule
from data_modules.events import clip_polyphony
from data_modules.listing import Listing
from data_modules.sampler import Request
from data_modules.scenes import Scene, SceneRenderer
from data_modules.sound_events import CLASS_NAMES
from sslam.audio import AudioFileError
from sslam.checks import at_least

SPLITS = ("training", "validation", "test")
NO_EVENT = -1.0  # fills the rows of the event table that a scene does not need


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

    def scene(self, number: int, with_stems: bool = False) -> Scene:
        """Scene number so and so, which is the index, counted over the epochs where each has its own scenes.

        Raises:
            AudioFileError: If a recording can no longer be read.
        """
        return self.renderer.render(self._generator(number), with_stems)

    def __getitem__(self, request: Request | int) -> Sample:
        """One scene, for an index or a pair (index, epoch), with `polyphony` and multi-hot `labels` (C,)."""
        index, epoch = request if isinstance(request, tuple) else (request, 0)
        try:
            scene = self.scene(index + epoch * self.num_scenes if self.fresh_each_epoch else index, self.return_stems)
        except AudioFileError as error:  # it was good when the data was set up
            return {"skipped": [error.problem]}
        labels = torch.zeros(len(self.renderer.class_names))
        labels[scene.events[:, 2].astype(np.int64)] = 1
        sample: Sample = {
            "waveform": torch.from_numpy(scene.waveform),
            "num_samples": len(scene.waveform),
            "index": index,
            "labels": labels,
            "polyphony": clip_polyphony(scene.events),
            "skipped": [],
        }
        most_events = self.renderer.events_per_scene[1]  # a batch needs one shape
        if scene.stems is not None and scene.background is not None:
            sample["stems"] = torch.from_numpy(pad_rows(scene.stems, most_events))
            sample["background"] = torch.from_numpy(scene.background)
        if self.return_events:
            sample["events"] = torch.from_numpy(pad_rows(scene.events, most_events, NO_EVENT))
        return sample

    def num_classes_with_scenes(self) -> int:
        """Classes that occur in the set (in its first epoch); looks at scenes until all that can be have been seen."""
        seen: set[int] = set()
        for number in range(self.num_scenes):
            seen.update(event.label for event in self.renderer.draw_events(self._generator(number)))
            if len(seen) == len(self.renderer.event_source.labels):
                break
        return len(seen)

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, self.split, number))))


def pad_rows(rows: NDArray[np.float32], num_rows: int, value: float = 0.0) -> NDArray[np.float32]:
    """Rows of a constant below the others, so that there are `num_rows`."""
    return np.pad(rows, ((0, num_rows - len(rows)), (0, 0)), constant_values=value)


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

    class_names: Sequence[str] = CLASS_NAMES

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
        self.train_set = self._dataset("training", self.num_train_scenes)
        self.val_set = self._dataset("validation", self.num_val_scenes) if self.num_val_scenes else None
        self.test_set = self.predict_set = self._dataset("test", self.num_test_scenes)
        for split, scenes in self.sets().items():
            if split in STAGE_SPLITS[stage]:
                number, num_classes = len(scenes), len(self.class_names)
                self.listings[split] = Listing(number, number, 0, 0, 0, num_classes, scenes.num_classes_with_scenes())

    def sets(self) -> dict[str, SoundscapesDataset]:
        """The scenes of each split that has some, once they are made."""
        sets = {"training": self.train_set, "validation": self.val_set, "test": self.test_set}
        return {split: scenes for split, scenes in sets.items() if isinstance(scenes, SoundscapesDataset)}

    def renderer_of(self, split: str) -> SceneRenderer:
        """What renders the scenes of "training", "validation" or "test"."""
        return self.renderer

    def _dataset(self, split: str, num_scenes: int) -> SoundscapesDataset:
        fresh_each_epoch = self.fresh_each_epoch and split == "training"
        return SoundscapesDataset(
            self.renderer_of(split),
            num_scenes,
            SPLITS.index(split),
            self.seed,
            fresh_each_epoch,
            self.return_stems,
            self.return_events,
        )
