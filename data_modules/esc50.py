"""ESC-50: 2000 five-second environmental sounds in 50 classes (K. J. Piczak, ACM MM 2015), in its official layout."""

import csv
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_modules.base import AudioDataModule, AudioFileDataset, require_folder

METADATA = "meta/esc50.csv"
COLUMNS = ("filename", "fold", "target", "category", "esc10")


class Recording(NamedTuple):
    """One row of the metadata."""

    path: str
    fold: int
    target: int
    category: str


def read_metadata(root: str | Path, esc10: bool = False) -> list[Recording]:
    """Read `meta/esc50.csv`.

    Args:
        root: Folder with `meta/esc50.csv` and `audio/`.
        esc10: Keep the rows of the ten-class subset only.

    Raises:
        ValueError: If the file is missing, lacks a column, or holds a row with a wrong number.
    """
    root = require_folder(root, "ESC-50 folder")
    path = root / METADATA
    if not path.is_file():
        raise ValueError(
            f"ESC-50 metadata not found: {METADATA} is missing under '{root}'. Pass --data.root with the folder that "
            "holds meta/ and audio/."
        )
    recordings = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or [])]:
            raise ValueError(
                f"ESC-50 metadata '{path}' lacks the column(s) {', '.join(missing)}. Its first line must name "
                f"{', '.join(COLUMNS)}, as in the official file."
            )
        for row in reader:
            try:
                fold, target = int(row["fold"]), int(row["target"])
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"ESC-50 metadata '{path}', line {reader.line_num}: fold and target must be whole numbers, got "
                    f"'{row['fold']}' and '{row['target']}'."
                ) from error
            if not esc10 or row["esc10"].strip().lower() == "true":
                recordings.append(Recording(str(root / "audio" / row["filename"]), fold, target, row["category"]))
    if not recordings:
        raise ValueError(f"ESC-50 metadata '{path}' lists no recording. Take the official file.")
    return recordings


class ESC50DataModule(AudioDataModule):
    """ESC-50 with one fold held out for validation and test, labels as rows of zeros with a single one.

    Args:
        root: Folder of the data set, with `meta/esc50.csv` and `audio/`.
        fold: The fold, 1 to 5, that is held out; the published figure is the mean over the five.
        esc10: Use the ten-class subset ESC-10 only.
        clip_seconds: Length of every clip, 0.025 to 120; the recordings last 5 s.
        **kwargs: Of :class:`~data_modules.base.AudioDataModule`.
    """

    def __init__(
        self,
        root: str = "data/esc50",
        fold: int = 1,
        esc10: bool = False,
        clip_seconds: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(clip_seconds=clip_seconds, **kwargs)
        self.root = root
        self.fold = fold
        self.esc10 = esc10
        self.class_names: list[str] = []
        """In the order of the official targets; filled by `setup`."""

    def make_sets(self, stage: str) -> None:
        recordings = read_metadata(self.root, self.esc10)
        folds = sorted({recording.fold for recording in recordings})
        if self.fold not in folds:
            raise ValueError(
                f"ESC-50 fold {self.fold} is not in '{self.root}': its folds are {folds}. "
                "Pass --data.fold with one of them."
            )
        if folds == [self.fold]:
            raise ValueError(
                f"ESC-50 metadata under '{self.root}' has fold {self.fold} only, so nothing is left to train on. "
                "Take the official file, which has five folds."
            )
        # The classes are taken before missing files are left out, so that a label never changes its place.
        names = {recording.target: recording.category for recording in recordings}
        columns = {target: column for column, target in enumerate(sorted(names))}
        self.class_names = [names[target] for target in columns]
        found = [recording for recording in recordings if Path(recording.path).is_file()]
        if len(found) < len(recordings):
            counts = f"{len(found)} of the {len(recordings)} recordings listed are in '{Path(self.root, 'audio')}'"
            if not found:
                raise ValueError(f"ESC-50 audio not found: {counts}. Pass --data.root with the complete data set.")
            warnings.warn(f"ESC-50 is incomplete: {counts}. The others are left out.", stacklevel=2)
        training = [recording for recording in found if recording.fold != self.fold]
        held_out = [recording for recording in found if recording.fold == self.fold]
        for part, purpose in ((training, "training folds"), (held_out, f"held-out fold {self.fold}")):
            if not part:
                raise ValueError(
                    f"ESC-50 audio of the {purpose} is missing from '{Path(self.root, 'audio')}'. "
                    "Pass --data.root with the complete data set."
                )
        self.train_set = self._dataset(training, columns, training=True)
        self.val_set = self.test_set = self.predict_set = self._dataset(held_out, columns, training=False)

    def _dataset(self, recordings: list[Recording], columns: dict[int, int], training: bool) -> AudioFileDataset:
        labels = np.zeros((len(recordings), len(columns)), np.float32)
        labels[range(len(recordings)), [columns[recording.target] for recording in recordings]] = 1
        return AudioFileDataset([row.path for row in recordings], self.clip_seconds, training, labels, self.seed)
