"""Labelled lists of audio files as EAT and SSLAM write them: `train.tsv`, `train.lbl`, `label_descriptors.csv`."""

import csv
import os
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.base import require_folder
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, find_listed, label_matrix
from data_modules.manifest import read_manifest
from data_modules.metadata import class_column, read_text, require_file

LISTS = ("train.tsv", "train.lbl", "eval.tsv", "eval.lbl", "label_descriptors.csv")
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

    def lists_to_keep(self) -> tuple[list[Path], dict[str, Any]]:
        lists = [Path(self.root) / name for name in LISTS]
        return [path for path in lists if path.is_file()], {"root": str(Path(self.root).absolute())}

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        folder = require_folder(self.root, "Manifest folder")
        self.class_names, columns = read_descriptors(folder / "label_descriptors.csv")
        files = {split: "train" if split == "training" else "eval" for split in splits}
        manifests = {name: require_file(folder / f"{name}.tsv", "Manifest", REMEDY) for name in files.values()}
        listed = {name: read_manifest(manifest) for name, manifest in manifests.items()}
        labels = {
            name: label_matrix(read_labels(folder / f"{name}.lbl", names, columns), len(columns))
            for name, (_, names) in listed.items()
        }
        found = _find_all(listed)
        return {split: ClipTable(manifests[name], *found[name], labels[name]) for split, name in files.items()}


def _find_all(listed: Mapping[str, tuple[Path, list[str]]]) -> dict[str, tuple[list[str], NDArray[np.bool_]]]:
    """The files of several manifests; the ones of one root, usually of all, with one scan."""
    found = {}
    for root in {root.resolve() for root, _ in listed.values()}:
        own = {name: names for name, (place, names) in listed.items() if place.resolve() == root}
        paths, is_found = find_listed(listed[next(iter(own))][0], [file for names in own.values() for file in names])
        start = 0
        for name, names in own.items():
            found[name] = (paths[start : start + len(names)], is_found[start : start + len(names)])
            start += len(names)
    return found
