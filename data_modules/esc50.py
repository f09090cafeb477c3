"""ESC-50: 2000 five-second environmental sounds in 50 classes (K. J. Piczak, ACM MM 2015), in its official layout."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from data_modules.base import require_folder
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, find_listed, label_matrix, numbered
from data_modules.metadata import read_table

REMEDY = "Pass --data.root with the folder that holds meta/ and audio/ of the official data set."
# By the official target, 0 to 49.
CLASS_NAMES = (  # noqa: SIM905, a list literal would take a line per name
    "dog rooster pig cow frog cat hen insects sheep crow "
    "rain sea_waves crackling_fire crickets chirping_birds water_drops wind pouring_water toilet_flush thunderstorm "
    "crying_baby sneezing clapping breathing coughing footsteps laughing brushing_teeth snoring drinking_sipping "
    "door_wood_knock mouse_click keyboard_typing door_wood_creaks can_opening washing_machine vacuum_cleaner "
    "clock_alarm clock_tick glass_breaking "
    "helicopter chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw"
).split()
COLUMNS = ("filename", "fold", "target", "category", "src_file")
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)


class Recording(NamedTuple):
    """One row of the metadata."""

    filename: str
    fold: int
    target: int
    src_file: str


def read_metadata(path: Path) -> list[Recording]:
    """Read `meta/esc50.csv`.

    Raises:
        ValueError: If the file is missing, lacks a column, or holds a row with a wrong number or class.
    """
    recordings = []
    for line, row in read_table(path, "ESC-50 metadata", COLUMNS, REMEDY):
        try:
            fold, target = int(row["fold"]), int(row["target"])
        except ValueError as error:
            raise ValueError(
                f"ESC-50 metadata '{path}', line {line}: fold and target must be whole numbers, got '{row['fold']}' "
                f"and '{row['target']}'. Take the official file."
            ) from error
        if not 0 <= target < len(CLASS_NAMES) or row["category"] != CLASS_NAMES[target]:
            official = f"'{CLASS_NAMES[target]}'" if 0 <= target < len(CLASS_NAMES) else "none of 0 to 49"
            raise ValueError(
                f"ESC-50 metadata '{path}', line {line}: unknown label, target {target} is {official} and not "
                f"'{row['category']}'. Correct the line or take the official file."
            )
        recordings.append(Recording(row["filename"], fold, target, row["src_file"]))
    return recordings


class ESC50DataModule(LabelledDataModule):
    """ESC-50 with one fold held out for validation and test; the published figure is the mean over the five folds.

    Args:
        root: Folder of the data set, with `meta/esc50.csv` and `audio/`.
        fold: Fold, 1 to 5, that is held out. None holds nothing out: training, validation and test have all clips,
            as is right for learning without labels and retrieval only.
        esc10: Whether to use the ten-class subset ESC-10 only.
        clip_seconds: Length of every clip, 0.025 to 120; the recordings last 5 s.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    single_label = True
    variants: ClassVar[Mapping[str, Sequence[Any]]] = {"fold": (1, 2, 3, 4, 5)}

    def __init__(
        self,
        root: str = "data/esc50",
        fold: int | None = 1,
        esc10: bool = False,
        clip_seconds: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(clip_seconds=clip_seconds, **kwargs)
        folds = self.variants["fold"]
        if fold is not None and fold not in folds:
            raise ValueError(f"fold must be one of {folds}, or null to hold nothing out, got {fold}.")
        self.root = root
        self.fold = fold
        self.esc10 = esc10
        self.targets = ESC10_TARGETS if esc10 else range(len(CLASS_NAMES))
        self.class_names = [CLASS_NAMES[target] for target in self.targets]

    @property
    def title(self) -> str:
        return "ESC-10" if self.esc10 else "ESC-50"

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        root = require_folder(self.root, "ESC-50 folder")
        metadata = root / "meta" / "esc50.csv"
        rows = [row for row in read_metadata(metadata) if row.target in self.targets]
        audio = require_folder(root / "audio", "ESC-50 audio folder")
        paths, is_found = find_listed(audio, [row.filename for row in rows])
        columns = {target: column for column, target in enumerate(self.targets)}
        table = ClipTable(
            metadata,
            paths,
            is_found,
            label_matrix([[columns[row.target]] for row in rows], len(columns)),
            groups=numbered([row.src_file for row in rows]),
        )
        training = [row.fold != self.fold for row in rows]
        held_out = [self.fold in (None, row.fold) for row in rows]
        return {split: table.select(training if split == "training" else held_out) for split in splits}
