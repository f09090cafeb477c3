"""The 527 classes of AudioSet in the order of its ``class_labels_indices.csv``, which published classifiers have.

``audioset_classes.csv`` beside this file is that list: AudioSet, Gemmeke et al., ICASSP 2017, by Google, under the
licence CC BY 4.0 (creativecommons.org/licenses/by/4.0).
"""

import csv
from functools import cache
from importlib import resources

NUM_CLASSES = 527


@cache
def audioset_class_names() -> tuple[str, ...]:
    """Display names by index: ``Speech``, ``Male speech, man speaking``, ..., ``Field recording``."""
    text = resources.files("sslam.checkpoints").joinpath("audioset_classes.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["index"] for row in rows] == [str(index) for index in range(NUM_CLASSES)]
    return tuple(row["display_name"] for row in rows)
