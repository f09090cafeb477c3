"""AudioSet: two million ten-second clips from YouTube in 527 classes (Gemmeke et al., ICASSP 2017)."""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from data_modules.base import require_folder
from data_modules.folder import is_held_out
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, label_matrix, numbered
from data_modules.metadata import class_column, read_table, read_text, require_file
from sslam.audio_files import audio_files_below
from sslam.checks import within
from sslam.packed_audio import index_files

REMEDY = "Pass --data.metadata with the folder of the official CSV files."
CLASSES_FILE = "class_labels_indices.csv"
TRAINING_FILES = {
    "balanced": ("balanced_train_segments.csv",),
    "full": ("balanced_train_segments.csv", "unbalanced_train_segments.csv"),
}
EVALUATION_FILE = "eval_segments.csv"

# `Y<id>`, `<id>`, either with `_<start>` or `_<start>_<end>` in seconds or milliseconds. An id stands for one segment.
FILE_NAME = re.compile(r"Y?(?P<id>[\w-]{11})(_\d+(\.\d+)?){0,2}", re.ASCII)


class Segments(NamedTuple):
    """Listed clips: where, the N ids of their videos, and their labels (N, C)."""

    metadata: Path
    ids: list[str]
    labels: csr_array

    def select(self, is_kept: ArrayLike) -> "Segments":
        """Those for which the mask (N,) is true."""
        kept = np.flatnonzero(is_kept).tolist()
        return Segments(self.metadata, [self.ids[row] for row in kept], self.labels[kept])


def read_classes(path: Path) -> tuple[list[str], dict[str, int]]:
    """Names of the classes by their official index, and the column of every machine id (`/m/09x0r`).

    Raises:
        ValueError: If the file is missing or wrong.
    """
    names: list[str] = []
    columns: dict[str, int] = {}
    for line, row in read_table(path, "AudioSet classes", ("index", "mid", "display_name"), REMEDY):
        if row["index"] != str(len(names)):
            raise ValueError(
                f"AudioSet classes '{path}', line {line}: expected index {len(names)}, got '{row['index']}'. "
                "Take the official file."
            )
        columns[row["mid"]] = len(names)
        names.append(row["display_name"])
    return names, columns


def read_segments(paths: Sequence[Path], columns: Mapping[str, int]) -> Segments:
    """Read official segment lists: lines `id, start, end, "mid,mid"` after three lines of comments.

    Raises:
        ValueError: If a file is missing or empty, a line has not four fields, or a label is unknown.
    """
    ids: list[str] = []

    def rows() -> Iterator[list[int]]:
        for path in paths:
            require_file(path, "AudioSet segments", REMEDY)
            before = len(ids)
            with StringIO(read_text(path, "AudioSet segments"), newline="") as file:
                reader = csv.reader(file, skipinitialspace=True)
                for row in reader:
                    if not row or row[0].startswith("#"):
                        continue
                    if len(row) != 4:
                        raise ValueError(
                            f"AudioSet segments '{path}', line {reader.line_num}: expected id, start, end, "
                            f'"labels", got {len(row)} fields. Take the official file.'
                        )
                    ids.append(row[0])
                    yield [class_column(mid, columns, path, reader.line_num) for mid in row[3].split(",")]
            if len(ids) == before:
                raise ValueError(f"AudioSet segments '{path}' lists no clip. Take the official file.")

    labels = label_matrix(rows(), len(columns))
    return Segments(paths[-1], ids, labels)


def find_audio(root: Path, ids: Sequence[str]) -> dict[str, str]:
    """Path below `root` of the videos whose audio is there; the first one by name where there are several."""
    wanted = set(ids)
    found: dict[str, str] = {}
    for name in audio_files_below(root):
        stem = name.rpartition(os.sep)[2].rpartition(".")[0]
        match = FILE_NAME.fullmatch(stem)
        if match is None or (video := match["id"]) not in wanted:
            continue
        found[video] = min(name, found.get(video, name))
    return found


class AudioSetDataModule(LabelledDataModule):
    """AudioSet from its official CSV files and whatever audio of it there is.

    Audio is found by the id of its video anywhere below `root`, flat or in folders: `Y<id>.wav`, `<id>.flac`,
    `<id>_<start>.wav`, `Y<id>_<start>_<end>.mp3` and the like. AudioSet has no validation set: by default validation
    looks at the evaluation segments, which must not choose anything. For choosing, hold out a part of the training set.

    Args:
        root: Folder with the audio.
        metadata: Folder with `class_labels_indices.csv` and the segment lists; `root` if not given.
        subset: Training lists, the balanced one (AS-20K, 22 160 clips), or the balanced and the unbalanced one (AS-2M).
        val_fraction: Share of the training clips that is held out for validation, chosen by a hash of the id; 0
            validates on the evaluation segments. Test is on these always.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    def __init__(
        self,
        root: str = "data/audioset",
        metadata: str | None = None,
        subset: Literal["balanced", "full"] = "balanced",
        val_fraction: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        within(0, 1, "[)", val_fraction=val_fraction)
        self.root = root
        self.metadata = metadata
        self.subset = subset
        self.val_fraction = val_fraction

    @property
    def title(self) -> str:
        return "AudioSet-20K" if self.subset == "balanced" else "AudioSet-2M"

    def lists_to_keep(self) -> tuple[list[Path], dict[str, Any]]:
        metadata = Path(self.metadata or self.root)
        lists = [metadata / name for name in (CLASSES_FILE, *TRAINING_FILES[self.subset], EVALUATION_FILE)]
        settings = {"root": str(Path(self.root).absolute()), "val_fraction": self.val_fraction}
        return [*(path for path in lists if path.is_file()), *index_files(self.root)], settings

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        root = require_folder(self.root, "AudioSet folder")
        metadata = require_folder(self.metadata or root, "AudioSet metadata folder", "--data.metadata")
        self.class_names, columns = read_classes(metadata / CLASSES_FILE)
        segments: dict[str, Segments] = {}
        if "training" in splits or ("validation" in splits and self.val_fraction):
            listed = read_segments([metadata / name for name in TRAINING_FILES[self.subset]], columns)
            segments["training"] = listed
            if self.val_fraction:
                held_out = np.array([is_held_out(video, self.val_fraction) for video in listed.ids])
                segments = {"training": listed.select(~held_out), "validation": listed.select(held_out)}
        if "test" in splits or ("validation" in splits and not self.val_fraction):
            segments["test"] = read_segments([metadata / EVALUATION_FILE], columns)
            segments.setdefault("validation", segments["test"])
        found = find_audio(root, [video for split in splits for video in segments[split].ids])
        return {split: _table(root, segments[split], found) for split in splits}


def _table(root: Path, segments: Segments, found: Mapping[str, str]) -> ClipTable:
    prefix = os.path.join(root, "")  # noqa: PTH118, not a Path per file: there may be millions
    paths = [prefix + found.get(video, f"Y{video}.wav") for video in segments.ids]
    is_found = np.array([video in found for video in segments.ids])
    return ClipTable(segments.metadata, paths, is_found, segments.labels, groups=numbered(segments.ids))
