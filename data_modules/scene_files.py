"""Scenes on the disk: FLAC files of 24 bits, one annotation in JAMS beside each, and one table of all events.

    OUT/scenes.json                          what was asked for, and the classes
    OUT/metadata.csv                         file,event_label,onset,offset,snr,source_file: a row for each event
    OUT/train/00000.flac                     the mixture
    OUT/train/00000.jams                     its annotation, in Scaper's namespace (Salamon et al., WASPAA 2017)
    OUT/train/00000_events/background0.flac, foreground0_dog.flac, ...    background and stems, where asked for

Shape letters: N sources, T samples.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from torch.utils.data import Dataset

from data_modules.events import clip_polyphony
from data_modules.metadata import require_file
from data_modules.scenes import FADE, Scene
from data_modules.soundscapes import SoundscapesDataset
from sslam.atomic_write import write_whole
from sslam.audio import SAMPLE_RATE, AudioFileError, Waveform
from sslam.audio_files import as_text

METADATA = "metadata.csv"
SETTINGS = "scenes.json"
COLUMNS = ("file", "event_label", "onset", "offset", "snr", "source_file")
FOLDERS = {"training": "train", "validation": "validation", "test": "test"}
REMEDY = "Pass --data.root with a folder that sslam data render has written to its end; the same command goes on."
JAMS_VERSION = "0.3.4"
NO_SOURCE = "none"  # of noise and silence: the field must be a text


class SceneWriter(Dataset[Exception | None]):
    """Writes scenes, those that are not there yet; for a DataLoader, whose workers write at the same time.

    Args:
        folder: Folder of all files.
        sets: Scenes of each split.
        class_names: Names of the classes, as texts.
        stems: Whether to write the background and each event, too.
        root: Folder of the recordings.

    Attributes:
        files: Mixtures of all scenes, named from `folder`.
    """

    def __init__(
        self, folder: Path, sets: Mapping[str, SoundscapesDataset], class_names: Sequence[str], stems: bool, root: Path
    ) -> None:
        self.folder = folder
        self.class_names = class_names
        self.stems = stems
        self.root = root
        scenes = {
            f"{FOLDERS[split]}/{index:05}.flac": (dataset, index)
            for split, dataset in sets.items()
            for index in range(len(dataset))
        }
        self.files = list(scenes)
        self._missing = [(file, *scenes[file]) for file in scenes if not _annotation_file(folder / file).is_file()]

    def __len__(self) -> int:
        return len(self._missing)

    def __getitem__(self, row: int) -> Exception | None:
        """Write a scene; the error if a recording can no longer be read or a file not be written."""
        file, dataset, index = self._missing[row]
        try:
            write_scene(self.folder, file, dataset.scene(index, self.stems), self.class_names, self.root)
        except (AudioFileError, OSError) as error:  # which lose their contents where a worker raises them
            return error
        return None


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder and state in it what its scenes are, or see that this is what it states.

    Raises:
        ValueError: If the folder has scenes of other settings, or something else.
    """
    path = folder / SETTINGS
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    if path.is_file():
        known, wanted = read_settings(folder), json.loads(text)
        if differences := sorted(name for name in wanted if known.get(name) != wanted[name]):
            raise ValueError(
                f"'{folder}' has scenes that were rendered with other values of {', '.join(differences)}. Give the "
                "same ones to go on, or choose another folder."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"'{folder}' holds other files, and no scenes to go on with. Choose another folder.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda path: path.write_text(text, encoding="utf-8"))


def read_settings(folder: Path) -> dict[str, Any]:
    """What :func:`begin` has stated.

    Raises:
        ValueError: If the file is missing or is another one.
    """
    path = require_file(folder / SETTINGS, "Settings of the scenes", REMEDY)
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"class_names", "clip_seconds", "events_per_scene", "stems"} - settings.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"'{path}' is no file of sslam data render ({error}). {REMEDY}") from error
    return settings


def stem_names(scene_file: str, labels: Sequence[str]) -> list[str]:
    """Files of the background and of each event, by the mixture's file and the events' classes."""
    folder = scene_file.removesuffix(".flac") + "_events"
    readable = [re.sub(r"[^\w.-]", "_", label) for label in labels]
    return [
        f"{folder}/background0.flac",
        *(f"{folder}/foreground{row}_{label}.flac" for row, label in enumerate(readable)),
    ]


def write_scene(folder: Path, file: str, scene: Scene, class_names: Sequence[str], root: Path) -> None:
    """Write a scene's files, the annotation last: where it is, the scene is complete.

    Args:
        folder: Folder that all files are named from.
        file: Mixture, below `folder`, ending in .flac.
        scene: Scene, with stems if their files are wanted.
        class_names: Names of the classes, as texts.
        root: Folder from which the recordings in it are named.
    """
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = [class_names[int(label)] for label in scene.events[:, 2]]
    parts: list[tuple[str, Waveform]] = []
    if scene.stems is not None and scene.background is not None:
        parts = list(zip(stem_names(file, labels), [scene.background, *scene.stems], strict=True))
        (folder / parts[0][0]).parent.mkdir(exist_ok=True)
    for name, waveform_T in [*parts, (file, scene.waveform)]:
        write_whole(folder / name, partial(write_flac, waveform_T=waveform_T))
    annotation = scaper_annotation(scene, labels, class_names, [name for name, _ in parts], root)
    text = json.dumps(annotation, indent=1, ensure_ascii=False)
    write_whole(_annotation_file(path), lambda path: path.write_text(text, encoding="utf-8"))


def write_flac(path: Path, waveform_T: Waveform) -> None:
    """24 bits, which is within 1.2e-7 of the samples (T,) in [-1, 1]."""
    soundfile.write(path, waveform_T, SAMPLE_RATE, subtype="PCM_24", format="FLAC")


def scaper_annotation(
    scene: Scene, labels: Sequence[str], class_names: Sequence[str], stems: Sequence[str], root: Path
) -> dict[str, Any]:
    """A JAMS document with one annotation in the namespace "scaper": the background, then the events by their onset."""
    seconds = len(scene.waveform) / SAMPLE_RATE

    def observation(
        role: str, label: str, source: tuple[str, float], onset: float, duration: float, snr_db: float
    ) -> dict[str, Any]:
        value = {
            "label": label,
            "source_file": _source_name(source[0], root),
            "source_time": round(source[1], 6),
            "event_time": onset,
            "event_duration": duration,
            "snr": snr_db,
            "role": role,
            "pitch_shift": None,
            "time_stretch": None,
        }
        return {"time": onset, "duration": duration, "value": value, "confidence": 1.0}

    backdrop = scene.backdrop
    data = [observation("background", "background", (backdrop.source_file, backdrop.source_time), 0.0, seconds, 0.0)]
    for label, (onset, offset, _), sound, snr_db in zip(labels, scene.events, scene.sounds, scene.snr_db, strict=True):
        start, end = _decimal(onset), _decimal(offset)
        source = (sound.source_file, sound.source_time)
        data.append(observation("foreground", label, source, start, round(end - start, 10), round(snr_db, 6)))
    scaper = {
        "duration": seconds,
        "n_channels": 1,
        "sr": SAMPLE_RATE,
        "fade_in_len": len(FADE) / SAMPLE_RATE,
        "fade_out_len": len(FADE) / SAMPLE_RATE,
        "n_events": len(labels),
        "polyphony_max": clip_polyphony(scene.events),
        "fg_labels": list(class_names),
        "bg_labels": ["background"],
        "isolated_events_audio_path": list(stems),
    }
    metadata = {
        "curator": {"name": "", "email": ""},
        "annotator": {},
        "version": "",
        "corpus": "",
        "annotation_tools": "sslam data render",
        "annotation_rules": "snr: RMS of the event over that of the background, in dB",
        "validation": "",
        "data_source": "",
    }
    return {
        "file_metadata": {
            "title": "",
            "artist": "",
            "release": "",
            "duration": seconds,
            "identifiers": {},
            "jams_version": JAMS_VERSION,
        },
        "annotations": [
            {
                "namespace": "scaper",
                "time": 0.0,
                "duration": seconds,
                "annotation_metadata": metadata,
                "data": data,
                "sandbox": {"scaper": scaper},
            }
        ],
        "sandbox": {},
    }


def write_metadata(folder: Path, files: Iterable[str]) -> None:
    """Write the table of all events from the scenes' annotations.

    Args:
        folder: Folder that the files are named from.
        files: Mixtures, in order.
    """

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for file in files:
                annotation = json.loads(_annotation_file(folder / file).read_text(encoding="utf-8"))
                for row in annotation["annotations"][0]["data"]:
                    value = row["value"]
                    if value["role"] == "foreground":
                        offset = round(value["event_time"] + value["event_duration"], 10)
                        event = (value["label"], value["event_time"], offset, value["snr"], value["source_file"])
                        writer.writerow((file, *event))

    write_whole(folder / METADATA, write)


def _annotation_file(path: Path) -> Path:
    return path.with_suffix(".jams")


def _source_name(path: str, root: Path) -> str:
    if not path:
        return NO_SOURCE
    source = Path(path)
    return as_text(str(source.relative_to(root) if source.is_relative_to(root) else source))


def _decimal(seconds: np.float32) -> float:
    """The shortest decimal number that is this one in float32."""
    return float(str(seconds))
