"""Anybody's own labelled recordings: a folder per class, or a CSV file that lists them.

Shape letters: N clips, C classes, F folds.
"""

import csv
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from data_modules.base import require_folder
from data_modules.folds import hash_audio, joint_groups, stratified_folds
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, find_listed, label_matrix
from data_modules.metadata import require_file
from data_modules.recordings import (
    LABEL_SEPARATOR,
    REMEDY,
    Recording,
    find_recordings,
    folds_of,
    is_csv,
    read_recordings,
    require_once,
)
from sslam.audio import AUDIO_EXTENSIONS, FileProblem
from sslam.audio_files import stated_size
from sslam.checks import at_least

LONGEST_SECONDS = 10.0  # of clips whose length follows from the recordings: what most encoders are trained on
FITTING_SHARE = 0.95  # of the recordings are not cut; a few long ones do not make all the others mostly zeros
NUM_THREADS = 8  # opening a header is waiting for the disk
MAX_NAMES = 10  # in a warning


class Contents(NamedTuple):
    """The recordings, in the order of the list."""

    recordings: list[Recording]
    table: ClipTable
    folds_N: NDArray[np.int64] | None
    """Fold of each recording; None where nothing is held out."""
    groups_N: NDArray[np.int64]
    """Number of the group with which each recording stays together."""


class ClassFolderDataModule(LabelledDataModule):
    """Recordings of one's own with one fold held out for validation and test, as ESC-50's folds are used.

    A folder holds a folder per class, in which files may lie at any depth. A CSV file (UTF-8) has a line per recording
    under the header `file,label`, with several labels separated by `;`, and may have two more columns: `fold`, whole
    numbers, and `group`, names of what must stay in one fold, such as the place or the day of a recording. Its files
    are paths below its own folder, or bare names that are found wherever they lie there.

    Where there is no such column, folds are made by :func:`~data_modules.folds.stratified_folds`: with equal shares of
    every class, and with groups and recordings of identical audio (:func:`~data_modules.folds.hash_audio`) in one fold.
    They are the same in every run and wherever the folder lies; `folds.csv` in the run's folder has them, and can be
    given as the CSV file. Files that cannot be used are named in `bad_files.csv`, count as listed, and are skipped.

    Args:
        root: Folder of class folders, or CSV file.
        fold: Fold that is held out, from 1 on or of the column. None holds nothing out: training, validation and test
            have all clips, as is right for learning without labels and retrieval only.
        num_folds: Number of folds where they are made.
        fold_seed: Seed of the folds where they are made; not `seed`, so that runs with other seeds have the same folds.
        keep_copies_together: Whether to look for recordings of identical audio, which decodes all of them once.
        single_label: Whether a clip has exactly one class, which is judged by accuracy and confusion matrix, or may
            have several, which is judged by mAP. None goes by the labels.
        audio: Folder of the audio of a CSV file that does not lie beside it.
        name: Name of the data in tables; that of the folder or file if not given.
        clip_seconds: Length of every clip, 0.025 to 120. None takes the shortest length, in tenths of a second, that
            95 % of the recordings do not exceed, and at most 10 s.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    variants: ClassVar[Mapping[str, Sequence[Any]]] = {"fold": (1, 2, 3, 4, 5)}

    def __init__(
        self,
        root: str,
        fold: int | None = 1,
        num_folds: int = 5,
        fold_seed: int = 0,
        keep_copies_together: bool = True,
        single_label: bool | None = None,
        audio: str | None = None,
        name: str | None = None,
        clip_seconds: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(clip_seconds=LONGEST_SECONDS if clip_seconds is None else clip_seconds, **kwargs)
        at_least(2, num_folds=num_folds)
        at_least(0, fold_seed=fold_seed)
        if audio is not None and not is_csv(root):
            raise ValueError(
                f"audio is the folder of the files that a CSV file lists, and root is '{root}'. Leave --data.audio "
                "out, or pass --data.root with a file that ends in .csv."
            )
        self.root = root
        self.fold = fold
        self.num_folds = num_folds
        self.fold_seed = fold_seed
        self.keep_copies_together = keep_copies_together
        self.audio = audio
        self._name = name or (Path(root).stem if is_csv(root) else Path(root).resolve().name)
        self._length_is_given = clip_seconds is not None
        self._given_single_label = single_label
        self._contents: Contents | None = None
        self._problems: list[FileProblem] = []

    @classmethod
    def variants_of(cls, arguments: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        root, audio = arguments.get("root"), arguments.get("audio")
        if root is not None and is_csv(str(root)):
            given = folds_of(read_recordings(Path(root), Path(audio or Path(root).parent)))
            if given is not None:
                return {"fold": given}
        num_folds = str(arguments.get("num_folds", len(cls.variants["fold"])))
        # What is no number is refused where the data module is made.
        return {"fold": range(1, int(num_folds) + 1)} if num_folds.isdecimal() else cls.variants

    @property
    def title(self) -> str:
        return self._name

    @property
    def contents(self) -> Contents:
        """The recordings with their folds, for others that divide them; read once for all stages of a run."""
        if self._contents is None:
            self._contents = self._read()
        return self._contents

    @property
    def problems(self) -> list[FileProblem]:
        """What was wrong with files, as far as it is known."""
        return self._problems

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        _, table, folds_N, groups_N = self.contents
        if folds_N is None:
            return dict.fromkeys(splits, table)
        # Clips that are scored have their groups, because intervals resample these whole.
        grouped = replace(table, groups=groups_N)
        return {
            split: table.select(folds_N != self.fold) if split == "training" else grouped.select(folds_N == self.fold)
            for split in splits
        }

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.trainer is None or self.trainer.is_global_zero:
            self.bad_files.add(self._problems)
            if self.bad_files.path is not None:
                self._write_folds(self.bad_files.path.with_name("folds.csv"))

    # ---- what is there ----------------------------------------------------------------------------------------------

    def _read(self) -> Contents:
        if is_csv(self.root):
            metadata = require_file(Path(self.root), "Labels", REMEDY)
            audio = require_folder(self.audio or metadata.parent, key="--data.audio")
            recordings = read_recordings(metadata, audio)
        else:
            metadata = audio = require_folder(self.root)
            recordings, self._problems = find_recordings(audio)
        self.class_names = sorted({label for recording in recordings for label in recording.labels})
        if len(self.class_names) < 2:
            raise ValueError(
                f"'{self.root}' has one class, '{self.class_names[0]}', and an evaluation needs at least 2. Pass "
                "--data.root with the folder whose folders are the classes, or with a CSV file."
            )
        self.single_label = self._find_single_label(recordings)
        columns = {name: column for column, name in enumerate(self.class_names)}
        rows = ([columns[name] for name in recording.labels] for recording in recordings)
        paths, is_found = find_listed(audio, [recording.name for recording in recordings])
        require_once(metadata, recordings, paths)
        missing = [path for path, found in zip(paths, is_found, strict=True) if not found]
        self._problems += [FileProblem(path, _why_not_found(path), "skipped") for path in missing]
        if not self._length_is_given:
            self.clip_seconds = fitting_seconds([path for path, found in zip(paths, is_found, strict=True) if found])
        table = ClipTable(metadata, paths, is_found, label_matrix(rows, len(columns)))
        folds_N, groups_N = self._find_folds(recordings, table)
        has_groups = len(np.unique(groups_N)) < len(groups_N)
        return Contents(recordings, replace(table, groups=groups_N if has_groups else None), folds_N, groups_N)

    def _find_single_label(self, recordings: Sequence[Recording]) -> bool:
        several = next((recording for recording in recordings if len(recording.labels) > 1), None)
        if self._given_single_label is None:
            return several is None
        if self._given_single_label and several is not None:
            raise ValueError(
                f"Labels '{self.root}', line {several.line}: '{several.name}' has the labels "
                f"{', '.join(several.labels)}, and single_label is true. Keep one of them, or leave "
                "--data.single_label out."
            )
        return self._given_single_label

    # ---- folds ------------------------------------------------------------------------------------------------------

    def _find_folds(
        self, recordings: Sequence[Recording], table: ClipTable
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
        """Folds and groups of the recordings, both (N,); no folds, and groups of the column alone, without a fold."""
        if self.fold is None:
            return None, joint_groups([recording.group for recording in recordings], [None] * len(recordings))
        given = folds_of(recordings)
        folds_F = range(1, self.num_folds + 1) if given is None else given
        if self.fold not in folds_F:
            whence = f"made, as num_folds is {self.num_folds}" if given is None else "of the column"
            raise ValueError(
                f"fold must be one of {', '.join(map(str, folds_F))} ({whence}), or null to hold nothing out, got "
                f"{self.fold}."
            )
        digests = self._hash(table)
        is_usable = (
            np.array([digest is not None for digest in digests]) if self.keep_copies_together else table.is_found
        )
        if not is_usable.any():
            first = self._problems[-1]
            raise ValueError(
                f"None of the {len(table)} recordings of '{self.root}' can be used, such as '{first.path}' "
                f"({first.reason}). Pass --data.root with readable wav, flac, mp3, ogg or opus files."
            )
        groups_N = joint_groups([recording.group for recording in recordings], digests)
        self._tell_of_copies(recordings, digests)
        if given is not None:
            folds_N = np.array([recording.fold for recording in recordings], np.int64)
            self._warn_of_divided_groups(recordings, groups_N, folds_N)
        else:
            folds_N = np.zeros(len(table), np.int64)
            labels_NC = table.select(is_usable).labels
            folds_N[is_usable] = stratified_folds(labels_NC, groups_N[is_usable], self.num_folds, self.fold_seed)
            # What cannot be used is dealt out, so that each fold counts a share of it.
            folds_N[~is_usable] = 1 + np.arange((~is_usable).sum()) % self.num_folds
        self._warn_of_missing_classes(table.select(is_usable), folds_N[is_usable], folds_F)
        return folds_N, groups_N

    def _hash(self, table: ClipTable) -> list[bytes | None]:
        """Of each recording a hash of its audio; None where it is not there, cannot be used, or is not asked for."""
        hashes: list[bytes | None] = [None] * len(table)
        if self.keep_copies_together:
            found = np.flatnonzero(table.is_found).tolist()
            digests, problems = hash_audio([table.paths[row] for row in found], self.clip_seconds)
            self._problems += problems
            for row, digest in zip(found, digests, strict=True):
                hashes[row] = digest
        return hashes

    def _tell_of_copies(self, recordings: Sequence[Recording], digests: Sequence[bytes | None]) -> None:
        originals: dict[bytes, Recording] = {}
        copies, contradictions = [], []
        for recording, digest in zip(recordings, digests, strict=True):
            if digest is None or (original := originals.setdefault(digest, recording)) is recording:
                continue
            copies.append(f"'{recording.name}' of '{original.name}'")
            if set(recording.labels) != set(original.labels):
                contradictions.append(
                    f"'{recording.name}' ({', '.join(recording.labels)}) of '{original.name}' "
                    f"({', '.join(original.labels)})"
                )
        if copies:
            rank_zero_info(f"{self._name}: recordings that are copies of others ({len(copies)}): {_listed(copies)}.")
        if contradictions:
            warnings.warn(
                f"{self._name}: copies that have other labels than their originals ({len(contradictions)}): "
                f"{_listed(contradictions)}. Remove those that are wrong.",
                stacklevel=2,
            )

    def _warn_of_divided_groups(
        self, recordings: Sequence[Recording], groups_N: NDArray[np.int64], folds_N: NDArray[np.int64]
    ) -> None:
        first_of: dict[int, int] = {}
        divided: dict[int, str] = {}
        for row, group in enumerate(groups_N.tolist()):
            first = first_of.setdefault(group, row)
            if folds_N[row] != folds_N[first]:
                divided[group] = (
                    f"'{recordings[first].name}' (fold {folds_N[first]}) and '{recordings[row].name}' (fold "
                    f"{folds_N[row]})"
                )
        if divided:
            warnings.warn(
                f"{self._name}: groups and copies that lie in more than one fold of the column ({len(divided)}), which "
                f"makes results too good: {_listed(list(divided.values()))}. Correct the column, or leave it out.",
                stacklevel=2,
            )

    def _warn_of_missing_classes(self, usable: ClipTable, folds_N: NDArray[np.int64], folds_F: Sequence[int]) -> None:
        clips_FC = np.array([usable.select(folds_N == fold).labels.sum(axis=0) for fold in folds_F], np.int64)
        in_folds_C = (clips_FC > 0).sum(axis=0)
        missing = [
            f"'{name}' ({clips} usable, in {in_folds} of {len(folds_F)} folds)"
            for name, clips, in_folds in zip(self.class_names, clips_FC.sum(axis=0), in_folds_C, strict=True)
            if in_folds < len(folds_F)
        ]
        if missing:
            warnings.warn(
                f"{self._name}: classes that are missing from some folds ({len(missing)} of {len(self.class_names)}): "
                f"{_listed(missing)}. A class that is missing from a fold is not scored there, and one that has a "
                "single fold is never learnt when it is scored. Add recordings, or lower --data.num_folds.",
                stacklevel=2,
            )

    def _write_folds(self, path: Path) -> None:
        assert self._contents is not None
        recordings, _, folds_N, groups_N = self._contents
        if folds_N is None:
            return
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "label", "fold", "group"))
            for recording, fold, group in zip(recordings, folds_N, groups_N, strict=True):
                writer.writerow((recording.name, LABEL_SEPARATOR.join(recording.labels), fold, group))


def fitting_seconds(paths: Sequence[str]) -> float:
    """Shortest length, in tenths of a second, that 95 % of the files do not exceed by their headers; at most 10 s."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        seconds = [size.seconds for size in pool.map(stated_size, paths) if size.num_samples]
    if not seconds:
        return LONGEST_SECONDS  # nothing can be read, as is told later
    fitting = float(np.quantile(seconds, FITTING_SHARE, method="inverted_cdf"))
    return min(LONGEST_SECONDS, math.ceil(round(fitting * 10, 3)) / 10)


def _why_not_found(path: str) -> str:
    endings = ", ".join(AUDIO_EXTENSIONS)
    return f"its name does not end in {endings}, or is hidden" if os.path.lexists(path) else "no such file"


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
