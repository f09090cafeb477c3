"""Mixtures with their sources beside them, as WSJ0-2mix and LibriMix have them: folders or CSV files.

Shape letters: B clips, N sources, T samples.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from data_modules.audio_file_dataset import AudioFileDataset, Sample
from data_modules.base import STAGE_SPLITS, AudioDataModule
from data_modules.metadata import read_table
from sslam.audio import SAMPLE_RATE, AudioFileError, Waveform, decode_audio, decode_whole_file
from sslam.audio_files import audio_files_below

SOURCE_COLUMN = re.compile(r"source_[1-9]\d*_path")
SOURCE_FOLDER = re.compile(r"s[1-9]\d*")
REMEDY = "Its columns are mixture_path, source_1_path and so on and, if wanted, partner_path, as LibriMix has them."


class Mixture(NamedTuple):
    """Files of a mixture, of its sources, and of a recording that is to be added to it, empty for none."""

    mixture: str
    sources: Sequence[str]
    partner: str = ""


class MixtureFilesDataset(AudioFileDataset):
    """Mixtures, with `stems` float32 (N, T) where sources are given: rows of zeros stand for absent ones.

    A source is read from the same place of its file as the mixture; it may be silent there. A mixture of which a source
    is bad counts as bad.

    Args:
        paths: Files of the mixtures.
        sources: Files of the sources, at most ``max_sources`` of each mixture; None gives no stems.
        max_sources: Number N of rows.
        partners: Files of recordings that are to be added to the mixtures, which make `partner` float32 (T,), or None.
        **kwargs: Arguments of :class:`~data_modules.audio_file_dataset.AudioFileDataset`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        sources: Sequence[Sequence[str]] | None,
        max_sources: int,
        partners: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(paths, **kwargs)
        self.max_sources = max_sources
        self._sources = self._partners = None
        if sources is not None:
            rows = [[os.fsencode(path) for path in row] + [b""] * (max_sources - len(row)) for row in sources]
            self._sources = np.array(rows, dtype=np.bytes_)
        if partners is not None:
            self._partners = np.array([os.fsencode(path) for path in partners], dtype=np.bytes_)

    def _sample(self, index: int, crop_position: float) -> Sample:
        sample = super()._sample(index, crop_position)
        if self._partners is not None:
            part, _ = decode_audio(
                os.fsdecode(self._partners[index]), SAMPLE_RATE, 0.0, self.clip_seconds, crop_position
            )
            partner = np.zeros(len(sample["waveform"]), np.float32)
            partner[: len(part)] = part
            sample["partner"] = torch.from_numpy(partner)
        if self._sources is None:
            return sample
        num_frames = soundfile.info(os.fsencode(self.path(index))).frames
        # As decode_audio cuts the mixture.
        start = int(crop_position * max(0, num_frames - round(self.clip_seconds * SAMPLE_RATE)))
        stems = np.zeros((self.max_sources, len(sample["waveform"])), np.float32)
        for row, path in zip(stems, self._sources[index].tolist(), strict=True):
            if path:
                part = read_source(os.fsdecode(path), num_frames)[start : start + len(row)]
                row[: len(part)] = part
        return sample | {"stems": torch.from_numpy(stems)}


def read_source(path: str, num_frames: int) -> Waveform:
    """A source's whole file (num_frames,), which may be silent.

    Raises:
        AudioFileError: If the file cannot be read, holds NaN, or is not mono with 16 kHz and the length of its mixture.
    """
    waveform_CT, rate, _ = decode_whole_file(path)
    channels, length = waveform_CT.shape
    if (rate, channels, length) != (SAMPLE_RATE, 1, num_frames):
        raise AudioFileError(
            path,
            f"a source has one channel, {SAMPLE_RATE} Hz and the {num_frames} samples of its mixture, and this "
            f"one has {channels}, {rate} Hz and {length}",
        )
    waveform_T: Waveform = waveform_CT[0]
    return waveform_T


def read_mixture_list(path: Path, root: Path) -> list[Mixture]:
    """Mixtures of a CSV file with paths that are absolute or below ``root``.

    Raises:
        ValueError: If the file is missing or wrong, or names a partner of some mixtures only.
    """
    mixtures = []
    for line, row in read_table(path, "Mixtures", ("mixture_path", "source_1_path"), REMEDY):
        names = sorted(
            (name for name in row if SOURCE_COLUMN.fullmatch(name)), key=lambda name: int(name.split("_")[1])
        )
        sources = [str(root / row[name]) for name in names if row[name]]
        if not row["mixture_path"] or not sources:
            raise ValueError(f"Mixtures '{path}', line {line}: names no mixture or no source. {REMEDY}")
        partner = row.get("partner_path", "")
        mixtures.append(Mixture(str(root / row["mixture_path"]), sources, str(root / partner) if partner else ""))
    has_partner = [bool(mixture.partner) for mixture in mixtures]
    if any(has_partner) and not all(has_partner):
        raise ValueError(
            f"Mixtures '{path}': {len(has_partner) - sum(has_partner)} of {len(has_partner)} lines have no "
            "partner_path. Name a partner in every line or in none."
        )
    return mixtures


def find_mixtures(folder: Path, mixture_folder: str) -> list[Mixture]:
    """Mixtures of a folder of folders, `mix/`, `s1/`, `s2/` and so on, that hold files of the same names.

    Raises:
        ValueError: If there are no such folders, or a mixture lacks a source.
    """
    sources = sorted(
        (below for below in folder.iterdir() if below.is_dir() and SOURCE_FOLDER.fullmatch(below.name)),
        key=lambda below: int(below.name[1:]),
    )
    if not (folder / mixture_folder).is_dir() or not sources:
        raise ValueError(
            f"Mixtures folder '{folder}' must hold '{mixture_folder}' and 's1', 's2' and so on. Pass --data.mixtures "
            "with the name of the folder of mixtures, such as mix_clean, or give a CSV file."
        )
    names = sorted(audio_files_below(folder / mixture_folder))
    if not names:
        raise ValueError(f"Mixtures folder '{folder / mixture_folder}' has no audio file. Extract the data again.")
    missing = [str(below / name) for name in names for below in sources if not (below / name).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} sources of '{folder}' are missing, first '{missing[0]}'. Extract them again.")
    return [Mixture(str(folder / mixture_folder / name), [str(below / name) for below in sources]) for name in names]


class MixturesDataModule(AudioDataModule):
    """Mixtures of known sources, such as WSJ0-2mix and LibriMix at 16 kHz.

    Each split is a folder that holds `mix/`, `s1/`, `s2/` ... with files of the same names (WSJ0-2mix; of LibriMix with
    `mixtures: mix_clean`), or a CSV file of LibriMix's metadata: `mixture_path`, `source_1_path`, `source_2_path` ...,
    whose paths are absolute or below ``root``. A column `partner_path` names a recording that is to be added to the
    mixture, such as noise in enhancement. Batches have `stems` float32 (B, N, T), and `partner` (B, T) where there is
    such a column.

    Args:
        train: Folder or CSV file of the training mixtures.
        val: The same for validation; None for none.
        test: The same for the test; None tests on the validation's.
        root: Where relative paths begin, those of folders and CSV files and those in them.
        mixtures: Name of the folder with the mixtures.
        return_stems: Whether batches have stems; without them, MixIT reads a third of the files.
        **kwargs: Arguments of :class:`~data_modules.base.AudioDataModule`.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        root: str = ".",
        mixtures: str = "mix",
        return_stems: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.train = train
        self.val = val
        self.test = test
        self.root = root
        self.mixtures = mixtures
        self.return_stems = return_stems

    @property
    def title(self) -> str:
        return "Mixtures"

    def make_sets(self, stage: str) -> None:
        places = {"training": self.train, "validation": self.val, "test": self.test or self.val}
        sets = {split: self._make_set(str(places[split]), split) for split in STAGE_SPLITS[stage] if places[split]}
        self.train_set = sets.get("training", self.train_set)
        self.val_set = sets.get("validation", self.val_set)
        self.test_set = self.predict_set = sets.get("test", self.test_set)

    def _make_set(self, place: str, split: str) -> MixtureFilesDataset:
        path, is_training = Path(self.root) / place, split == "training"
        found = find_mixtures(path, self.mixtures) if path.is_dir() else read_mixture_list(path, Path(self.root))
        return MixtureFilesDataset(
            [mixture.mixture for mixture in found],
            [mixture.sources for mixture in found] if self.return_stems else None,
            max(len(mixture.sources) for mixture in found),
            [mixture.partner for mixture in found] if found[0].partner else None,
            clip_seconds=self.clip_seconds,
            training=is_training,
            seed=self.seed,
            random_crop=self.random_crop,
        )
