"""How many labels the clips of AudioSet have, at each level of its ontology (SSLAM, appendix B.1).

Shape letters: N clips, C classes, A classes of a level.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from data_modules.audioset import CLASSES_FILE, EVALUATION_FILE, REMEDY, TRAINING_FILES, read_classes, read_segments
from data_modules.base import require_folder
from data_modules.metadata import require_file

MOST = 5  # clips with more labels are counted together
LISTS = {**TRAINING_FILES, "evaluation": (EVALUATION_FILE,)}
Ontology = Mapping[str, tuple[str, ...]]
"""For each class the classes from a root of the ontology down to itself."""


def read_labels(folder: str, subset: str) -> tuple[list[str], csr_array]:
    """Ids of the classes (`/m/09x0r`) and labels (N, C) of the official lists.

    Args:
        folder: Folder of the official CSV files.
        subset: `balanced`, `full` or `evaluation`.

    Raises:
        ValueError: If a file is missing or wrong.
    """
    metadata = require_folder(folder, "AudioSet metadata folder", "FOLDER")
    _, columns = read_classes(metadata / CLASSES_FILE)
    return list(columns), read_segments([metadata / name for name in LISTS[subset]], columns).labels


def read_ontology(path: Path, ids: Sequence[str]) -> Ontology:
    """The way from a root to each class, of several the shortest, and of these the first in the file.

    Args:
        path: The official `ontology.json`, a list of objects with `id` and `child_ids`.
        ids: Classes that must be in it.

    Raises:
        ValueError: If the file is missing or no ontology, or lacks a class.
    """
    require_file(path, "AudioSet ontology", "Pass --ontology with the official ontology.json.")
    try:
        children = {entry["id"]: list(entry["child_ids"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"AudioSet ontology '{path}' is no list of classes with id and child_ids ({error}). Take the official file."
        ) from error
    below = {child for ids_below in children.values() for child in ids_below}
    ways: dict[str, tuple[str, ...]] = {name: (name,) for name in children if name not in below}
    level = list(ways)
    while level:
        following = []
        for parent in level:
            for child in children.get(parent, []):
                if child not in ways:
                    ways[child] = (*ways[parent], child)
                    following.append(child)
        level = following
    if missing := [name for name in ids if name not in ways]:
        raise ValueError(
            f"AudioSet ontology '{path}' lacks {len(missing)} classes of {CLASSES_FILE}, such as {missing[0]}. "
            f"Take the official files of one release. {REMEDY}"
        )
    return ways


def at_level(labels_NC: csr_array, ids: Sequence[str], ontology: Ontology, level: int) -> csr_array:
    """Labels (N, A) of the classes ``level`` steps from the roots (1: the roots); a class above it stays as it is."""
    above = [ontology[name][:level][-1] for name in ids]
    columns = {name: column for column, name in enumerate(dict.fromkeys(above))}
    rows = np.arange(len(ids)), [columns[name] for name in above]
    to_above_CA = csr_array((np.ones(len(ids), np.int64), rows), shape=(len(ids), len(columns)))
    return csr_array(labels_NC.astype(np.int64) @ to_above_CA > 0)


def number_counts(labels_NA: csr_array) -> list[int]:
    """Clips with 0, 1, ... labels, and last those with :data:`MOST` and more."""
    numbers_N = np.diff(labels_NA.indptr)
    return [int((numbers_N.clip(max=MOST) == number).sum()) for number in range(MOST + 1)]


def labels_per_clip(labels_NC: csr_array, ids: Sequence[str], ontology: Ontology | None) -> str:
    """A table of clips by their number of labels, in per cent, one line for each level of the ontology and one for all.

    Args:
        labels_NC: Labels of all clips.
        ids: Classes.
        ontology: Ways to the classes; None for the labels as they are.
    """
    depth = 0 if ontology is None else max(len(ontology[name]) for name in ids)
    lines = [("labels", labels_NC)]
    if ontology is not None:
        lines += [(f"level {level}", at_level(labels_NC, ids, ontology, level)) for level in range(1, depth + 1)]
    heads = [*map(str, range(1, MOST)), f"{MOST}+"]
    text = f"{labels_NC.shape[0]} clips; per cent of them by their number of distinct labels\n"
    text += f"{'':9}" + "".join(f"{head:>7}" for head in heads) + "   mean\n"
    for name, labels_NA in lines:
        shares = [100 * count / labels_NA.shape[0] for count in number_counts(labels_NA)[1:]]
        text += f"{name:9}" + "".join(f"{share:7.1f}" for share in shares)
        text += f"{labels_NA.nnz / labels_NA.shape[0]:7.2f}\n"
    return text
