"""A module of recordings of one's own, and what it has made of them."""

import os
import warnings
from pathlib import Path
from typing import Any

from data_modules import ClassFolderDataModule


def own_module(root: Path, **options: Any) -> ClassFolderDataModule:
    return ClassFolderDataModule(str(root), **{"num_workers": 0, "batch_size": 4} | options)


def folds_of(data: ClassFolderDataModule) -> dict[str, int]:
    """Fold of every recording, by its name in the list."""
    assert data._contents is not None
    recordings, _, folds, _ = data._contents
    assert folds is not None
    return {recording.name: fold for recording, fold in zip(recordings, folds.tolist(), strict=True)}


def files(data: ClassFolderDataModule, split: str) -> list[str]:
    dataset: Any = {"training": data.train_set, "test": data.test_set, "validation": data.val_set}[split]
    return [os.path.relpath(dataset.path(index), data.root) for index in range(len(dataset))]


def quietly(data: ClassFolderDataModule, stage: str = "fit") -> ClassFolderDataModule:
    """Sets up without the warnings that a test is not about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.setup(stage)
    return data
