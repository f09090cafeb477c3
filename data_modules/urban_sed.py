"""URBAN-SED v2: 10 000 ten-second city soundscapes of ten kinds of events (Salamon et al., WASPAA 2017)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_modules.base import require_folder
from data_modules.events import Event, labels_of, polyphony_of, read_span
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, find_listed
from data_modules.metadata import class_column, read_text

CLASS_NAMES = (  # noqa: SIM905, a list literal would take a line per name
    "air_conditioner car_horn children_playing dog_bark drilling engine_idling gun_shot jackhammer siren street_music"
).split()
FOLDERS = {"training": "train", "validation": "validate", "test": "test"}


def read_annotation(path: Path, columns: dict[str, int]) -> list[Event]:
    """Events of one scene, from lines `start<TAB>end<TAB>label` without a header; an empty file has none.

    Raises:
        ValueError: If a line has not these three fields, or its label is unknown.
    """
    events = []
    for line, text in enumerate(read_text(path, "Annotation").splitlines(), start=1):
        if not text.strip():
            continue
        fields = text.split("\t")
        if len(fields) != 3:
            raise ValueError(f"'{path}', line {line}: expected start<TAB>end<TAB>label, got '{text}'.")
        onset, offset = read_span(fields[0], fields[1], path, line)
        events.append(Event(class_column(fields[2].strip(), columns, path, line), onset, offset))
    return events


class UrbanSEDDataModule(LabelledDataModule):
    """URBAN-SED in its official layout and splits: `audio/{train,validate,test}/` and `annotations/{...}/*.txt`.

    Args:
        root: Folder of the data set, with `audio/` and `annotations/`.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    def __init__(self, root: str = "data/urban_sed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.class_names = CLASS_NAMES

    @property
    def title(self) -> str:
        return "URBAN-SED"

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        root = require_folder(self.root, "URBAN-SED folder")
        return {split: self._read_split(root, FOLDERS[split]) for split in splits}

    def _read_split(self, root: Path, folder: str) -> ClipTable:
        annotations = require_folder(root / "annotations" / folder, "URBAN-SED annotation folder")
        audio = require_folder(root / "audio" / folder, "URBAN-SED audio folder")
        columns = {name: column for column, name in enumerate(CLASS_NAMES)}
        files = sorted(annotations.glob("*.txt"))
        clips = [read_annotation(file, columns) for file in files]
        paths, is_found = find_listed(audio, [f"{file.stem}.wav" for file in files])
        return ClipTable(annotations, paths, is_found, labels_of(clips, len(columns)), polyphony_of(clips))
