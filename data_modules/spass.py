"""SPASS: synthetic polyphonic city soundscapes in five scenes of 5000 ten-second clips (Viveros-Munoz et al. 2023)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from data_modules.base import require_folder
from data_modules.events import Event, labels_of, polyphony_of, read_span
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, find_listed
from data_modules.metadata import class_column, read_table, require_file

TRAINING_SHARE = 0.75  # of the sorted file names; published with SSLAM
# Names under which a table may give an event's times; the official tables need not have them.
ONSET_COLUMNS = ("onset", "start", "onset_time", "start_time", "event_onset")
OFFSET_COLUMNS = ("offset", "end", "offset_time", "end_time", "event_offset")

LABEL_FILES = {
    "market": "1_MatrixLabelsMarket.csv",
    "park": "2_MatrixLabelsPark.csv",
    "square": "3_MatrixLabelsSquare.csv",
    "street": "4_MatrixLabelsStreet.csv",
    "waterfront": "5_MatrixLabelsWaterfront.csv",
}
COMMON_CLASSES = (  # noqa: SIM905, a list literal would take a line per name
    "airborne bird bus_idling bus_moving car_idling car_moving crowd dog horn motorcycle_idling motorcycle_moving "
    "music rain shouting siren steps talk truck_idling truck_moving wind"
).split()
MORE_CLASSES = {
    "market": "air_conditioner alarm",
    "park": "bells fireworks water",
    "square": "alarm bells braking cutting drilling impact water",
    "street": "air_conditioner alarm braking cutting drilling explosives impact",
    "waterfront": "Vwater alarm braking cutting drilling fireworks impact river waves",
}


def read_events(path: Path, columns: Mapping[str, int]) -> tuple[dict[str, list[Event]], bool]:
    """Events of every file, and whether the table has their onsets and offsets (if not, they are 0).

    Raises:
        ValueError: If the table is missing or lacks a column, or a label or a time is wrong.
    """
    clips: dict[str, list[Event]] = {}
    has_times = False
    remedy = "Pass --data.root with the folder of the official label files."
    for line, row in read_table(path, "SPASS labels", ("audio_filename", "class"), remedy):
        onset = next((name for name in ONSET_COLUMNS if name in row), None)
        offset = next((name for name in OFFSET_COLUMNS if name in row), None)
        has_times = onset is not None and offset is not None
        span = (0.0, 0.0)
        if onset is not None and offset is not None:
            span = read_span(row[onset], row[offset], path, line)
        event = Event(class_column(row["class"], columns, path, line), *span)
        clips.setdefault(row["audio_filename"], []).append(event)
    return clips, has_times


class SPASSDataModule(LabelledDataModule):
    """One scene of SPASS: the first 75 % of its sorted file names train, the others are validation and test.

    The label file lies in `root` or in a folder below it; audio is found by its name anywhere below `root`
    (`Square_audio_files/square00001.wav`). Batches have `polyphony` if the label file has columns of onsets and offsets
    (`onset`, `start`, `offset`, `end` and the like) beside `audio_filename` and `class`.

    Args:
        root: Folder of the data set.
        scene: Scene with its own classes: market 22, park 23, square 27, street 27, waterfront 29.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    variants: ClassVar[Mapping[str, Sequence[Any]]] = {"scene": tuple(LABEL_FILES)}

    def __init__(
        self,
        root: str = "data/spass",
        scene: Literal["market", "park", "square", "street", "waterfront"] = "market",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.scene = scene
        self.class_names = sorted(COMMON_CLASSES + MORE_CLASSES[scene].split())

    @property
    def title(self) -> str:
        return f"SPASS {self.scene}"

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        root = require_folder(self.root, "SPASS folder")
        name = LABEL_FILES[self.scene]
        candidates = [root / name, *sorted(root.glob(f"*/{name}"))]
        labels_file = require_file(
            next((file for file in candidates if file.is_file()), candidates[0]),
            "SPASS labels",
            "Put the official file there or into a folder below, or pass --data.root with the folder that holds it.",
        )
        columns = {name: column for column, name in enumerate(self.class_names)}
        events, has_times = read_events(labels_file, columns)
        names = sorted(events)
        clips = [events[name] for name in names]
        table = ClipTable(
            labels_file,
            *find_listed(root, names),
            labels_of(clips, len(columns)),
            polyphony_of(clips) if has_times else None,
        )
        num_training = int(len(names) * TRAINING_SHARE)
        training = [row < num_training for row in range(len(names))]
        held_out = [row >= num_training for row in range(len(names))]
        return {split: table.select(training if split == "training" else held_out) for split in splits}
