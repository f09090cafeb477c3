"""IDMT-DESED-FL: ten-second domestic soundscapes of the ten DESED classes (Johnson et al., EUSIPCO 2021)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_modules.base import require_folder
from data_modules.events import Event, labels_of, polyphony_of, read_span
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, find_listed
from data_modules.metadata import class_column, read_table

CLASS_NAMES = (  # noqa: SIM905, a list literal would take a line per name
    "Alarm_bell_ringing Blender Cat Dishes Dog Electric_shaver_toothbrush Frying Running_water Speech Vacuum_cleaner"
).split()


class IDMTDESEDFLDataModule(LabelledDataModule):
    """Clips and events from tables in DESED's format, one table per split.

    The official folder layout of IDMT-DESED-FL was not at hand when this was written. What is read instead is DESED's
    format: a TSV file with the columns `filename`, `onset`, `offset` (seconds) and `event_label`, one line per event,
    and a line with the file name alone for a clip without events. Audio is found by its path below `root`, or by its
    bare name anywhere below it.

    Args:
        root: Folder with the audio.
        train_events: Table of the training clips; relative paths count from `root`.
        validation_events: Table of the validation clips; None validates on nothing.
        test_events: Table of the test clips.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    def __init__(
        self,
        root: str = "data/idmt_desed_fl",
        train_events: str = "train.tsv",
        validation_events: str | None = None,
        test_events: str = "test.tsv",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.train_events = train_events
        self.validation_events = validation_events
        self.test_events = test_events
        self.class_names = CLASS_NAMES

    @property
    def title(self) -> str:
        return "IDMT-DESED-FL"

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        root = require_folder(self.root, "IDMT-DESED-FL folder")
        tables = {"training": self.train_events, "validation": self.validation_events, "test": self.test_events}
        return {split: self._read_split(root, split, file) for split in splits if (file := tables[split]) is not None}

    def _read_split(self, root: Path, split: str, file: str) -> ClipTable:
        columns = {name: column for column, name in enumerate(CLASS_NAMES)}
        path = root / file
        key = {"training": "train_events", "validation": "validation_events", "test": "test_events"}[split]
        remedy = f"Pass --data.{key} with a TSV file of events in DESED's format."
        events: dict[str, list[Event]] = {}
        fields = ("filename", "onset", "offset", "event_label")
        for line, row in read_table(path, f"IDMT-DESED-FL {split} events", fields, remedy, delimiter="\t"):
            clip = events.setdefault(row["filename"], [])
            if row["event_label"]:
                onset, offset = read_span(row["onset"], row["offset"], path, line)
                clip.append(Event(class_column(row["event_label"], columns, path, line), onset, offset))
        clips = list(events.values())
        return ClipTable(path, *find_listed(root, list(events)), labels_of(clips, len(columns)), polyphony_of(clips))
