"""Scenes that `sslam data render` has written, read back.

Shape letters: B clips, N sources, T samples.
"""

import os
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_modules.audio_file_dataset import AudioFileDataset, Sample
from data_modules.base import require_folder
from data_modules.events import Event, clip_polyphony, labels_of, polyphony_of, read_span
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable
from data_modules.metadata import class_column, read_table
from data_modules.scene_files import COLUMNS, FOLDERS, METADATA, REMEDY, read_settings, stem_names
from data_modules.soundscapes import NO_EVENT, pad_rows
from sslam.audio import SAMPLE_RATE, AudioFileError, Waveform, decode_whole_file


class RenderedSceneDataset(AudioFileDataset):
    """Scenes from files, or parts of them, with what is known of their events: labels are those of the part.

    Args:
        paths: Mixtures.
        scenes: Events (N, 3) of each of them, in the order in which they were written.
        class_names: Names of the events' classes.
        scene_samples: Length of every scene.
        most_events: Rows of the tables of events and of the stems.
        return_stems: Whether to add `stems` (N, T) and `background` (T,), which sum up to `waveform`.
        return_events: Whether to add `events` (N, 3): onset and offset in seconds, class; rows of -1 are empty.
        **kwargs: Arguments of :class:`~data_modules.audio_file_dataset.AudioFileDataset`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        scenes: Sequence[NDArray[np.float32]],
        class_names: Sequence[str],
        scene_samples: int,
        most_events: int,
        return_stems: bool,
        return_events: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(paths, **kwargs)
        self.scenes = scenes
        self.class_names = class_names
        self.scene_samples = scene_samples
        self.most_events = most_events
        self.return_stems = return_stems
        self.return_events = return_events

    def _sample(self, index: int, crop_position: float) -> Sample:
        sample = super()._sample(index, crop_position)
        num_samples = len(sample["waveform"])
        start = int(crop_position * max(0, self.scene_samples - num_samples))  # as decode_audio cuts the mixture
        events, is_heard = cut_events(self.scenes[index], start / SAMPLE_RATE, num_samples / SAMPLE_RATE)
        sample["labels"] = torch.zeros(len(self.class_names))
        sample["labels"][events[:, 2].astype(np.int64)] = 1
        sample["polyphony"] = clip_polyphony(events)
        if self.return_stems:
            labels = [self.class_names[int(label)] for label in self.scenes[index][:, 2]]
            background, *stems = stem_names(self.path(index), labels)
            heard = [background, *compress(stems, is_heard)]
            parts = np.zeros((1 + self.most_events, num_samples), np.float32)
            for row, path in zip(parts, heard, strict=False):
                stem = read_stem(path, self.scene_samples)[start : start + num_samples]
                row[: len(stem)] = stem
            sample["background"], sample["stems"] = torch.from_numpy(parts[0]), torch.from_numpy(parts[1:])
        if self.return_events:
            sample["events"] = torch.from_numpy(pad_rows(events, self.most_events, NO_EVENT))
        return sample


def cut_events(
    events_N3: NDArray[np.float32], start: float, seconds: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The events of a part of a scene, with onset and offset counted from its beginning.

    Args:
        events_N3: Onset and offset in seconds, class.
        start: Beginning of the part in seconds.
        seconds: Its length.

    Returns:
        Table of the events that are heard in the part, of the same columns, and which of the N they are.
    """
    is_heard_N = (events_N3[:, 0] < start + seconds) & (events_N3[:, 1] > start)
    heard = events_N3[is_heard_N]
    if start > 0:  # exact otherwise
        heard[:, :2] -= np.float32(start)
    heard[:, :2] = heard[:, :2].clip(0, seconds)
    return heard, is_heard_N


def read_stem(path: str, num_samples: int) -> Waveform:
    """A stem's whole file (num_samples,), which may be silent.

    Raises:
        AudioFileError: If the file cannot be read, or is not mono with 16 kHz and the length of its mixture.
    """
    waveform_CT, rate, _ = decode_whole_file(path)
    if (waveform_CT.shape, rate) != ((1, num_samples), SAMPLE_RATE):
        raise AudioFileError(path, f"a stem has one channel, {SAMPLE_RATE} Hz and the length of its mixture")
    waveform_T: Waveform = waveform_CT[0]
    return waveform_T


class RenderedSoundscapesDataModule(LabelledDataModule):
    """Scenes that `sslam data render` has written: what `RecordedSoundscapesDataModule` gave, within 24 bits.

    Of shorter clips than the scenes, training has random parts and evaluation the beginnings; labels, polyphony, events
    and stems are those of the part.

    Args:
        root: Output folder of the command, with `metadata.csv` and `scenes.json`.
        return_stems: Whether to add `stems` float32 (B, N, T), one per event, and `background` (B, T), which sum up to
            `waveform`; of scenes that were rendered with --stems.
        return_events: Whether to add `events` float32 (B, N, 3): onset and offset in seconds, class; rows of -1 are
            empty.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    def __init__(
        self, root: str = "data/scenes", return_stems: bool = False, return_events: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.return_stems = return_stems
        self.return_events = return_events
        self._settings: dict[str, Any] = {}
        self._scenes: dict[str, list[Event]] = {}

    @property
    def title(self) -> str:
        return f"Scenes in {Path(self.root).resolve().name}"

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        root = require_folder(self.root, "Folder of scenes")
        self._settings = read_settings(root)
        if self.return_stems and not self._settings["stems"]:
            raise ValueError(
                f"The scenes in '{root}' were rendered without stems. Render them with --stems, or leave "
                "--data.return_stems out."
            )
        self.class_names = self._settings["class_names"]
        self._scenes = {str(root / file): scene for file, scene in read_metadata(root, self.class_names).items()}
        tables = {split: self._table(root, FOLDERS[split]) for split in splits}
        return {split: table for split, table in tables.items() if len(table)}

    def _table(self, root: Path, folder: str) -> ClipTable:
        prefix = str(root / folder) + os.sep
        paths = [path for path in self._scenes if path.startswith(prefix)]
        scenes = [self._scenes[path] for path in paths]
        is_found = np.array([Path(path).is_file() for path in paths], np.bool_)
        return ClipTable(
            root / METADATA, paths, is_found, labels_of(scenes, len(self.class_names)), polyphony_of(scenes)
        )

    def make_dataset(self, split: str, clips: ClipTable) -> AudioFileDataset:
        scenes = [self._scenes[path] for path in clips.paths]
        return RenderedSceneDataset(
            clips.paths,
            [np.array([(*event[1:], event.label) for event in events], np.float32) for events in scenes],
            self.class_names,
            round(self._settings["clip_seconds"] * SAMPLE_RATE),
            self._settings["events_per_scene"][1],
            self.return_stems,
            self.return_events,
            clip_seconds=self.clip_seconds,
            training=split == "training",
            labels=clips.labels,
            seed=self.seed,
            random_crop=self.random_crop,
            groups=clips.groups,
        )


def read_metadata(root: Path, class_names: Sequence[str]) -> dict[str, list[Event]]:
    """Events of every scene, by the mixture's file, in the order of the table.

    Raises:
        ValueError: If the file is missing or a row is wrong.
    """
    path = root / METADATA
    columns = {name: column for column, name in enumerate(class_names)}
    scenes: dict[str, list[Event]] = {}
    for line, row in read_table(path, "Metadata of the scenes", COLUMNS, REMEDY):
        span = read_span(row["onset"], row["offset"], path, line)
        event = Event(class_column(row["event_label"], columns, path, line), *span)
        scenes.setdefault(row["file"], []).append(event)
    return scenes
