"""What all data modules share: sets by stage, loaders that resume exactly, bad files, the list of what was read.

Shape letters: B clips, T samples, C classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data_modules.bad_files import BadFileLog
from data_modules.clips import AudioFileDataset, Sample, collate_clips
from data_modules.listing import Listing
from data_modules.sampler import ClipLoader, EvaluationSampler, TrainingLoader, TrainingSampler
from sslam.audio import MIN_SECONDS
from sslam.checks import at_least
from sslam.run_folder import run_folder

MAX_CLIP_SECONDS = 120.0  # the encoders' table of positions ends there
DEFAULT_MAX_WORKERS = 4
STAGE_SPLITS = {"fit": ("training", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("test",)}
"""The splits that a stage of the Trainer needs."""


class AudioDataModule(pl.LightningDataModule):
    """Base of the data modules: a subclass makes `train_set`, `val_set` and `test_set` in :meth:`make_sets`.

    Batches are dicts: `waveform` float32 (B, T) at 16 kHz, `num_samples` int64 (B,) before padding, `index` int64 (B,),
    with classes `labels` float32 (B, C), with onsets `polyphony` int64 (B,), the largest number of events that sound at
    once. Training drops the last, incomplete batch and, under DDP, gives every process
    its own share; evaluation gives every clip exactly once. Bad files never stop a run: they are counted, named in a
    warning and listed in `bad_files.csv` in the run's folder (`bad_files-rank1.csv` ... with several processes).

    Args:
        batch_size: Clips per batch and process.
        num_workers: Processes that read clips; None takes the free processor cores, at most 4, and 0 reads in the main
            process.
        clip_seconds: Length of every clip, 0.025 to 120. Longer recordings are cut, shorter ones padded with zeros.
        seed: Seed of the order and the random parts, which do not depend on the number of workers.
        training_augmentation: Whether training draws clips and their parts at random. False gives every training clip
            exactly once per epoch, in order and from its beginning, as evaluation does: what is needed to compute
            something once per clip and keep it.
        random_crop: Whether a training clip is a random part of a longer recording, or always its beginning, as EAT and
            SSLAM were published (the first 1024 frames).
    """

    class_names: Sequence[str] = ()
    """Names of the labels' columns; empty for data without labels."""
    single_label = False
    """Whether a clip has exactly one class."""
    fold: int | None = None
    """Number of the part that is held out, of data that is divided into folds; tables have the mean over all folds."""
    variants: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Arguments that choose a part of the data, such as a fold, with the values that `sslam evaluate` runs through."""

    @classmethod
    def variants_of(cls, arguments: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        """The variants where they depend on other arguments.

        Args:
            arguments: Arguments of the data module that are known before it is made, as values or as text.
        """
        return cls.variants

    def __init__(
        self,
        batch_size: int = 12,
        num_workers: int | None = None,
        clip_seconds: float = 10.0,
        seed: int = 0,
        training_augmentation: bool = True,
        random_crop: bool = True,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size)
        at_least(0, num_workers=num_workers, seed=seed)
        if not MIN_SECONDS <= clip_seconds <= MAX_CLIP_SECONDS:
            raise ValueError(
                f"clip_seconds must lie between {MIN_SECONDS} (one window of the front end) and "
                f"{MAX_CLIP_SECONDS:.0f} s (the longest clip the encoders take), got {clip_seconds}."
            )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.clip_seconds = clip_seconds
        self.seed = seed
        self.training_augmentation = training_augmentation
        self.random_crop = random_crop
        self.listings: dict[str, Listing] = {}
        """Counts of "training", "validation" and "test", as far as they were set up; labelled data has them."""
        self.train_set: Dataset[Sample] | None = None
        self.val_set: Dataset[Sample] | None = None
        self.test_set: Dataset[Sample] | None = None
        self.predict_set: Dataset[Sample] | None = None
        self.bad_files = BadFileLog()

    @property
    def title(self) -> str:
        """Name of the data in tables, whatever its fold."""
        return type(self).__name__

    @property
    def title_and_fold(self) -> str:
        """`ESC-50 fold 1`, for messages."""
        return self.title if self.fold is None else f"{self.title} fold {self.fold}"

    @property
    def training_groups(self) -> NDArray[np.int64] | None:
        """Recording that each training clip, by its `index`, is an excerpt of; None where that is not known."""
        return getattr(self.train_set, "groups", None)

    def make_sets(self, stage: str) -> None:
        """Make the sets that this data has and the stage needs, more where that costs nothing; the others stay None.

        Args:
            stage: "fit" (training and validation), "validate", "test" or "predict"; called again for every stage.

        Raises:
            ValueError: If the data is not there or unusable, with the remedy.
        """
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        self.make_sets(stage)
        if stage == "validate":  # in a fit it may be missing
            self._required(self.val_set, "validation")
        for dataset in self._used_sets(stage):
            if isinstance(dataset, AudioFileDataset):
                dataset.require_readable()
        for split in STAGE_SPLITS[stage]:
            if split in self.listings:
                rank_zero_info(f"{self.title_and_fold}, {split}: {self.listings[split]}.")
        trainer = self.trainer
        # Asked for here, where all processes are, and not where one of them meets a bad file.
        if trainer is not None and (folder := run_folder(trainer)) is not None:
            name = "bad_files.csv" if trainer.world_size == 1 else f"bad_files-rank{trainer.global_rank}.csv"
            self.bad_files = BadFileLog(folder / name)
            if trainer.is_global_zero:
                files = self._files_of(stage)
                if self.listings or files:
                    self._write_listings(folder / "data.json", files)

    def teardown(self, stage: str) -> None:
        self.bad_files.summarise()

    def train_dataloader(self) -> ClipLoader:
        dataset = self._required(self.train_set, "training")
        if not self.training_augmentation:
            return self._evaluation_loader(
                dataset.evaluation_view() if isinstance(dataset, AudioFileDataset) else dataset
            )
        sampler = self._training_sampler(dataset, *self._shard())
        return TrainingLoader(dataset, sampler=sampler, drop_last=True, **self._loader_options())

    def val_dataloader(self) -> ClipLoader | list[ClipLoader]:
        # An empty list is Lightning's way to say that there is no validation.
        return [] if self.val_set is None else self._evaluation_loader(self.val_set)

    def test_dataloader(self) -> ClipLoader:
        return self._evaluation_loader(self._required(self.test_set, "test"))

    def predict_dataloader(self) -> ClipLoader:
        return self._evaluation_loader(self._required(self.predict_set, "prediction"))

    def _used_sets(self, stage: str) -> list[Dataset[Sample] | None]:
        if stage == "fit":
            return [self.train_set, self.val_set]
        return {"validate": [self.val_set], "test": [self.test_set], "predict": [self.predict_set]}[stage]

    def _required(self, dataset: Any, purpose: str) -> Any:
        if dataset is None:
            raise ValueError(
                f"{type(self).__name__} has no {purpose} data. "
                "Hold some out (--data.val_fraction, --data.num_val_scenes), or choose another data module."
            )
        return dataset

    def _files_of(self, stage: str) -> dict[str, dict[str, Any]]:
        """Clips of the splits that a stage reads from files, and a hash of the files' names."""
        sets = zip(STAGE_SPLITS[stage], self._used_sets(stage), strict=True)
        return {
            split: {"clips": len(dataset), "names_sha256": dataset.files_sha256()}
            for split, dataset in sets
            if isinstance(dataset, AudioFileDataset)
        }

    def _write_listings(self, path: Path, files: Mapping[str, Any]) -> None:
        splits = {split: asdict(listing) for split, listing in self.listings.items()}
        contents = {
            "title": self.title,
            "fold": self.fold,
            "data_module": type(self).__name__,
            "single_label": self.single_label,
            "class_names": list(self.class_names),
            "splits": splits,
            "files": files,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _training_sampler(self, dataset: Any, num_replicas: int, rank: int) -> TrainingSampler:
        return TrainingSampler(len(dataset), self.batch_size, num_replicas, rank, self.seed)

    def _evaluation_loader(self, dataset: Any) -> ClipLoader:
        sampler = EvaluationSampler(len(dataset), *self._shard())
        return ClipLoader(dataset, sampler=sampler, **self._loader_options())

    def _shard(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _loader_options(self) -> dict[str, Any]:
        num_workers = self.num_workers
        if num_workers is None:
            local_processes = 1 if self.trainer is None else self.trainer.num_devices
            num_workers = min(DEFAULT_MAX_WORKERS, suggested_max_num_workers(local_processes))
        return {
            "on_problems": self.bad_files.add,
            "batch_size": self.batch_size,
            "num_workers": num_workers,
            "collate_fn": collate_clips,
            # Pinning opens a CUDA context: only where the run itself is on such a device.
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            "persistent_workers": num_workers > 0,
        }


def require_folder(root: str | Path, what: str = "Audio folder", key: str = "--data.root") -> Path:
    """The folder as a Path.

    Raises:
        ValueError: If it does not exist or is no folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"{what} '{root}' {state}. Pass {key} with the path of an existing folder.")
    return folder
