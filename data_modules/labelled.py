"""What labelled data sets share: splits that the metadata lists, taking stock, class-balanced sampling."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.base import STAGE_SPLITS, AudioDataModule
from data_modules.clips import AudioFileDataset, paths_sha256
from data_modules.kept_listing import Listed, kept_listing
from data_modules.listing import ClipTable, Listing, take_stock
from data_modules.sampler import TrainingSampler
from sslam.checks import within
from sslam.mapped_arrays import Texts


class LabelledDataModule(AudioDataModule):
    """Base of the labelled data sets of recordings: a subclass says in :meth:`read_splits` what the metadata lists.

    Args:
        max_missing_fraction: Share of a split's clips whose audio may be missing: from this share on it is an error,
            below it a warning. Copies of AudioSet miss 5 to 15 %.
        balanced_sampling: Whether to draw training clips by the weights of :func:`balancing_weights` instead of giving
            each of them once per epoch. Without `training_augmentation` each comes once all the same.
        draws_per_epoch: Training clips in an epoch; None takes as many as there are. With `balanced_sampling` and
            without replacement it is needed, and fewer, because a whole epoch would have every clip once. AS-2M was
            published with 200 000.
        draw_with_replacement: Whether a clip may be drawn more than once in an epoch, as SUPERB draws Speech Commands.
        **kwargs: Arguments of :class:`~data_modules.base.AudioDataModule`.
    """

    def __init__(
        self,
        max_missing_fraction: float = 0.5,
        balanced_sampling: bool = False,
        draws_per_epoch: int | None = None,
        draw_with_replacement: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        within(0, 1, "(]", max_missing_fraction=max_missing_fraction)
        if balanced_sampling and draws_per_epoch is None and not draw_with_replacement:
            raise ValueError(
                "balanced_sampling needs the number of clips in an epoch: pass --data.draws_per_epoch, fewer than "
                "there are training clips, or --data.draw_with_replacement true."
            )
        self.max_missing_fraction = max_missing_fraction
        self.balanced_sampling = balanced_sampling
        self.draws_per_epoch = draws_per_epoch
        self.draw_with_replacement = draw_with_replacement

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        """Read the metadata, set `class_names`, and look for the audio with one scan.

        Args:
            splits: Splits that are needed, of "training", "validation" and "test".

        Returns:
            Tables of these splits; one that the data set does not have is left out.

        Raises:
            ValueError: If something is missing or wrong, with file, line, value and remedy.
        """
        raise NotImplementedError

    def lists_to_keep(self) -> tuple[list[Path], dict[str, Any]]:
        """Lists of a large data set, and the arguments that decide what is read of them.

        What :meth:`read_splits` makes of them is kept in a cache where they are large: it may set `class_names` then,
        and no more. Without lists nothing is kept.
        """
        return [], {}

    def make_sets(self, stage: str) -> None:
        splits = STAGE_SPLITS[stage]
        lists, settings = self.lists_to_keep()
        if lists:
            settings = {"kind": self.title_and_fold, "splits": splits, "max": self.max_missing_fraction, **settings}
            listed = kept_listing(lists, settings, lambda is_kept: self._read_lists(splits, is_kept))
            self.class_names = listed.about["class_names"]
            found = {split: ClipTable.from_listed(listed, split) for split in listed.about["splits"]}
            self.listings |= {split: Listing(**about["listing"]) for split, about in listed.about["splits"].items()}
        else:
            found = {split: self._take_stock(split, table, False) for split, table in self.read_splits(splits).items()}
        sets = {split: self._make_set(split, table) for split, table in found.items()}
        self.train_set = sets.get("training", self.train_set)
        self.val_set = sets.get("validation", self.val_set)
        self.test_set = self.predict_set = sets.get("test", self.test_set)

    def _read_lists(self, splits: Sequence[str], is_kept: bool) -> Listed:
        arrays: dict[str, NDArray[Any]] = {}
        about: dict[str, Any] = {}
        for split, table in self.read_splits(splits).items():
            found = self._take_stock(split, table, is_kept)
            arrays |= found.arrays(split)
            about[split] = {
                "listing": asdict(self.listings[split]),
                "metadata": str(table.metadata),
                "files_sha256": paths_sha256(Texts.of(found.paths)),
            }
        return Listed(arrays, {"class_names": list(self.class_names), "splits": about})

    def _take_stock(self, split: str, table: ClipTable, is_kept: bool) -> ClipTable:
        """The clips that are there, with the counts in `listings`."""
        # One process opens the headers: the counts are for people.
        check_headers = is_kept or self.trainer is None or self.trainer.is_global_zero
        self.listings[split] = take_stock(self.title_and_fold, split, table, self.max_missing_fraction, check_headers)
        return table.select(table.is_found)

    def _make_set(self, split: str, found: ClipTable) -> AudioFileDataset:
        listing = self.listings[split]
        if listing.missing:
            warnings.warn(
                f"{self.title_and_fold} is incomplete: {listing.found} of the {listing.listed} {split} clips are "
                "there. The others are left out.",
                stacklevel=2,
            )
        return self.make_dataset(split, found)

    def make_dataset(self, split: str, clips: ClipTable) -> AudioFileDataset:
        """The clips that are there; a subclass may have them with more beside them."""
        return AudioFileDataset(
            clips.paths,
            self.clip_seconds,
            split == "training",
            clips.labels,
            self.seed,
            clips.polyphony,
            clips.start_seconds,
            self.random_crop,
            clips.groups,
            clips.files_sha256,
        )

    def _training_sampler(self, dataset: Any, num_replicas: int, rank: int) -> TrainingSampler:
        weights = balancing_weights(dataset.labels) if self.balanced_sampling else None
        return TrainingSampler(
            len(dataset),
            self.batch_size,
            num_replicas,
            rank,
            self.seed,
            weights,
            self.draws_per_epoch,
            self.draw_with_replacement,
        )


def balancing_weights(labels_NC: Any) -> NDArray[np.float64]:
    """How often a clip is to be drawn: the sum over its classes of 1000 / (clips of the class + 0.01).

    As EAT and SSLAM fine-tune on AS-2M; the formula is PSLA's (Gong et al. 2021, `gen_weight_file.py` of their code).

    Args:
        labels_NC: Sparse multi-hot labels (N, C).

    Returns:
        Weights (N,); 0 for a clip without labels.
    """
    clips_per_class = np.asarray(labels_NC.sum(axis=0), np.float64)
    return np.asarray(labels_NC @ (1000 / (clips_per_class + 0.01)))
