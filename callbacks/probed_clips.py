"""Labelled clips that an online probe keeps in memory.

Shape letters: N clips, T samples, C classes.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from sslam.metrics.embedding_probe import Split, grouped_folds


class ProbedClips(NamedTuple):
    """Waveforms (N, T) of one length, their samples before padding, labels (N, C), recordings, and folds of these."""

    waveform_NT: Tensor
    num_samples_N: Tensor
    labels_NC: NDArray[np.float32]
    groups_N: NDArray[np.int64]
    splits: list[Split]
    single_label: bool

    @classmethod
    def read(cls, data: Any, max_clips: int, num_folds: int, seed: int) -> Self:
        """Clips of the training split, drawn at random, as evaluation reads them.

        Files that cannot be read are left out with a warning.

        Args:
            data: Data module after ``setup("fit")``, see :class:`~callbacks.online_probe.OnlineProbe`.
            max_clips: Largest number of clips.
            num_folds: Number of folds.
            seed: Seed of the draw and the folds.

        Raises:
            ValueError: If they have no labels, differ in length, are too few, or are all of one class.
        """
        name = type(data).__name__
        view = data.train_set.evaluation_view() if hasattr(data.train_set, "evaluation_view") else data.train_set
        chosen = np.random.default_rng(seed).permutation(len(view))[:max_clips].tolist()
        samples = {index: sample for index in chosen if "waveform" in (sample := view[index])}
        if len(samples) < len(chosen):
            rank_zero_warn(f"{len(chosen) - len(samples)} of the {len(chosen)} clips of the online probe are left out.")
        if not samples or not all("labels" in sample for sample in samples.values()):
            raise ValueError(f"{name} gives OnlineProbe no readable clips with labels. Give it labelled data.")
        if len(lengths := sorted({len(sample["waveform"]) for sample in samples.values()})) > 1:
            raise ValueError(f"OnlineProbe takes clips of one length, and {name} gives {lengths} samples. Pad them.")
        labels_NC = torch.stack([sample["labels"] for sample in samples.values()]).float().numpy()
        groups = getattr(data, "training_groups", None)
        groups_N = np.array([index if groups is None else groups[index] for index in samples], np.int64)
        return cls(
            torch.stack([sample["waveform"] for sample in samples.values()]),
            torch.tensor([int(sample["num_samples"]) for sample in samples.values()]),
            labels_NC,
            groups_N,
            grouped_folds(labels_NC, groups_N, num_folds, seed),
            bool(getattr(data, "single_label", False)),
        )
