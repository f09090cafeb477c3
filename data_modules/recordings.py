"""Lists of anybody's own labelled recordings: a folder per class, or a CSV file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_modules.metadata import read_table
from sslam.audio import AUDIO_EXTENSIONS, FileProblem
from sslam.audio_files import audio_files_below

LABEL_SEPARATOR = ";"
REMEDY = "Pass --data.root with a CSV file that has the columns file, label and, if wanted, fold and group."


class Recording(NamedTuple):
    """One recording as the folder or the CSV file has it."""

    name: str
    """Path below the folder of the audio, or bare name."""
    labels: list[str]
    """One class or more."""
    fold: int | None = None
    """Fold, where there is such a column."""
    group: str | None = None
    """Name of what stays together, where there is one."""
    line: int = 0
    """Line of the CSV file."""


def is_csv(root: str) -> bool:
    """Whether a root is a CSV file, by its name."""
    return root.lower().endswith(".csv")


def find_recordings(root: Path) -> tuple[list[Recording], list[FileProblem]]:
    """Recordings of a folder per class, at any depth in it, and files that lie in none and so have no class.

    Raises:
        ValueError: If no file lies in a class folder, or the name of one cannot be written into a CSV file.
    """
    recordings, problems = [], []
    for name in sorted(audio_files_below(root)):
        label, separator, _ = name.partition(os.sep)
        if not separator:
            problems.append(FileProblem(str(root / name), "it lies in no class folder, so it has no label", "skipped"))
            continue
        if LABEL_SEPARATOR in label:
            raise ValueError(
                f"Class folder '{root / label}': a class name must not hold '{LABEL_SEPARATOR}', which separates "
                "labels. Rename it."
            )
        recordings.append(Recording(name, [label]))
    if not recordings:
        beside = f" ({len(problems)} lie beside them)" if problems else ""
        raise ValueError(
            f"No audio file in the class folders of '{root}'{beside}: looked for {', '.join(AUDIO_EXTENSIONS)} in "
            f"'{root}/CLASS/'. Put the files of each class into a folder of its name, or pass --data.root with a CSV "
            "file that ends in .csv."
        )
    return recordings, problems


def read_recordings(path: Path, audio: Path) -> list[Recording]:
    """Recordings of a CSV file.

    Args:
        path: CSV file.
        audio: Folder in which the files are.

    Raises:
        ValueError: If the file is missing, lacks a column, or a line is wrong.
    """
    recordings = []
    for line, row in read_table(path, "Labels", ("file", "label"), REMEDY):
        where = f"Labels '{path}', line {line}:"
        labels = [label.strip() for label in row["label"].split(LABEL_SEPARATOR)]
        if not all(labels):
            raise ValueError(
                f"{where} '{row['file']}' must have a label, or several as first{LABEL_SEPARATOR}second, got "
                f"'{row['label']}'. Name its classes, or remove the line."
            )
        fold = None
        if "fold" in row:
            if not row["fold"].isdecimal():
                raise ValueError(
                    f"{where} fold must be a whole number, got '{row['fold']}'. Number the folds from 1 on, or leave "
                    "the column out to have folds made."
                )
            fold = int(row["fold"])
        name = _below(row["file"], audio, where)
        recordings.append(Recording(name, list(dict.fromkeys(labels)), fold, row.get("group") or None, line))
    return recordings


def folds_of(recordings: Sequence[Recording]) -> list[int] | None:
    """Folds of the column, sorted, or None where there is no such column."""
    folds = {recording.fold for recording in recordings}
    return None if None in folds else sorted(fold for fold in folds if fold is not None)


def require_once(metadata: Path, recordings: Sequence[Recording], paths: Sequence[str]) -> None:
    """Raises a ValueError if two lines of a CSV file are of the same file; `paths` are those that were found."""
    lines: dict[str, int] = {}
    for recording, path in zip(recordings, paths, strict=True):
        if path in lines:
            raise ValueError(
                f"Labels '{metadata}', line {recording.line}: '{recording.name}' is listed in line {lines[path]} too. "
                f"Write one line per file, with several labels as first{LABEL_SEPARATOR}second."
            )
        lines[path] = recording.line


def _below(file: str, audio: Path, where: str) -> str:
    name = os.path.normpath(file) if file else os.pardir
    if Path(name).is_absolute():
        name = os.path.relpath(name, audio.absolute())
    if Path(name).parts[0] == os.pardir:
        raise ValueError(
            f"{where} file must be below '{audio}', got '{file}'. Write it relative to that folder, or pass "
            "--data.audio with one that holds all files."
        )
    return name
