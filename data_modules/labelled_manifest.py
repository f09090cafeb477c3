"""Labelled lists of audio files as EAT and SSLAM write them: `train.tsv`, `train.lbl`, `label_descriptors.csv`."""

import csv
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from data_modules.base import require_folder
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, find_listed, label_matrix
from data_modules.manifest import read_manifest
from data_modules.metadata import class_column, read_text, require_file

REMEDY = "Pass --data.root with the folder of train.tsv, train.lbl, eval.tsv, eval.lbl and label_descriptors.csv."


def read_descriptors(path: Path) -> tuple[list[str], dict[str, int]]:
    """Names of the classes by their index, and the column of every label, from lines `index,label,"name"`.

    Raises:
        ValueError: If the file is missing or empty, or the indices do not count from 0.
    """
    require_file(path, "Label descriptors", REMEDY)
    names: list[str] = []
    columns: dict[str, int] = {}
    with StringIO(read_text(path, "Label descriptors"), newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            if not row:
                continue
            if len(row) != 3 or row[0].strip() != str(len(names)):
                raise ValueError(
                    f"Label descriptors '{path}', line {reader.line_num}: expected {len(names)},label,name, got "
                    f"'{','.join(row)}'. Number the classes from 0 on."
                )
            columns[row[1].strip()] = len(names)
            names.append(row[2].strip())
    if not names:
        raise ValueError(f"Label descriptors '{path}' list no class. {REMEDY}")
    return names, columns


def read_labels(path: Path, names: Sequence[str], columns: dict[str, int]) -> list[list[int]]:
    """Classes of every file, from lines `id<TAB>label,label` in the manifest's order.

    Args:
        path: Path of the `.lbl` file.
        names: Files of the manifest.
        columns: Column of every label.

    Raises:
        ValueError: If the file is missing, has another number of lines than the manifest, or a line is wrong.
    """
    lines = read_text(require_file(path, "Labels", REMEDY), "Labels").splitlines()
    lines = [line for line in lines if line.strip()]
    if len(lines) != len(names):
        raise ValueError(
            f"Labels '{path}' have {len(lines)} lines and the manifest beside them {len(names)} files. "
            "Write one line per file, in the same order."
        )
    rows = []
    for number, (line, name) in enumerate(zip(lines, names, strict=True), start=1):
        fields = line.split()
        if len(fields) != 2:
            raise ValueError(f"Labels '{path}', line {number}: expected id<TAB>label,label, got '{line}'.")
        # An id is the file's name without its ending, in most files without its folder too.
        if fields[0].rpartition("/")[2] not in name.rpartition(os.sep)[2]:
            raise ValueError(
                f"Labels '{path}', line {number}: is of '{fields[0]}', and the manifest's file is '{name}'. "
                "Write the lines in the manifest's order."
            )
        rows.append([class_column(label, columns, path, number) for label in fields[1].split(",")])
    return rows


class LabelledManifestDataModule(LabelledDataModule):
    """A folder of manifests with labels: `train` for training, `eval` for validation and test.

    Beside each TSV file (the root in the first line, then `path<TAB>number`) lies one with the ending `.lbl`, of lines
    `id<TAB>label,label`; `label_descriptors.csv` has the classes, `index,label,"name"`.

    Args:
        root: Folder of the manifests, their labels and `label_descriptors.csv`.
        name: Name of the data in tables.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    def __init__(self, root: str, name: str = "AudioSet", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self._title = name

    @property
    def title(self) -> str:
        return self._title

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        folder = require_folder(self.root, "Manifest folder")
        self.class_names, columns = read_descriptors(folder / "label_descriptors.csv")
        return {
            split: self._read_split(folder, "train" if split == "training" else "eval", columns) for split in splits
        }

    def _read_split(self, folder: Path, name: str, columns: dict[str, int]) -> ClipTable:
        manifest = require_file(folder / f"{name}.tsv", "Manifest", REMEDY)
        audio, names = read_manifest(manifest)
        labels = read_labels(folder / f"{name}.lbl", names, columns)
        return ClipTable(manifest, *find_listed(audio, names), label_matrix(labels, len(columns)))
