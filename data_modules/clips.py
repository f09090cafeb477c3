"""Clips of one length from audio files: what a data set of files gives, and batches of it.

Shape letters: B clips, T samples, C classes.
"""

import copy
import hashlib
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch.utils.data import Dataset, default_collate

from data_modules.sampler import Request
from sslam.audio import SAMPLE_RATE, AudioFileError, FileProblem, decode_audio
from sslam.mapped_arrays import Texts

MAX_ATTEMPTS = 1000  # files tried before a set counts as unreadable: a second or two

Sample = dict[str, Any]


def collate_clips(samples: Sequence[Sample]) -> dict[str, Any]:
    """Make a batch: entries are stacked, `skipped` is the list of all file problems, dropped samples are left out."""
    skipped = [problem for sample in samples for problem in sample["skipped"]]
    kept = [{key: value for key, value in sample.items() if key != "skipped"} for sample in samples if len(sample) > 1]
    batch: dict[str, Any] = default_collate(kept) if kept else {"index": torch.zeros(0, dtype=torch.int64)}
    return batch | {"skipped": skipped}


class AudioFileDataset(Dataset[Sample]):
    """Clips of one length from audio files, 16 kHz mono.

    In training a clip is a random part of its file, or without `random_crop` its beginning, and a bad file is replaced
    by another one; in evaluation it is the file's beginning, and a bad file is dropped. What is drawn depends on (seed,
    epoch, index) only, so it is the same for any number of workers and processes and after a resume.

    Args:
        paths: Audio files, one per clip.
        clip_seconds: Length of every clip; a shorter file is padded with zeros at the end.
        training: Whether clips are random parts and bad files are replaced, or clips are the files' beginnings.
        labels: Multi-hot labels, sparse of shape (clips, C), or None.
        seed: Seed of the random parts.
        polyphony: Degree of polyphony of each clip, shape (clips,), or None.
        start_seconds: Start of each clip in its file, shape (clips,), or None. A clip with a start is always read
            from there; NaN stands for a clip that is a file of its own.
        random_crop: Whether a training clip is a random part of its file, or its beginning.
        groups: Number of the recording that each clip is an excerpt of, shape (clips,), or None.
        files_sha256: What :meth:`files_sha256` would compute, where it is known.
    """

    def __init__(
        self,
        paths: Sequence[str],
        clip_seconds: float,
        training: bool,
        labels: csr_array | None = None,
        seed: int = 0,
        polyphony: NDArray[np.int64] | None = None,
        start_seconds: NDArray[np.float32] | None = None,
        random_crop: bool = True,
        groups: NDArray[np.int64] | None = None,
        files_sha256: str | None = None,
    ) -> None:
        # In one block: workers that touch two million Python strings would each get a copy of them.
        self._paths = Texts.of(paths)
        self.clip_seconds = clip_seconds
        self.training = training
        self.labels = labels
        self.seed = seed
        self.polyphony = polyphony
        self.start_seconds = start_seconds
        self.random_crop = random_crop
        self.groups = groups
        self._files_sha256 = files_sha256

    def __len__(self) -> int:
        return len(self._paths)

    def evaluation_view(self) -> Self:
        """The same clips as evaluation reads them: each file's beginning, nothing drawn, nothing replaced."""
        view = copy.copy(self)
        view.training = False
        return view

    def path(self, index: int) -> str:
        """The file of a clip, by a batch's `index`."""
        return self._paths[index]

    def __getitem__(self, request: Request | int) -> Sample:
        """One clip, for an index or a pair (index, epoch).

        Returns:
            `waveform` float32 (T,), `num_samples` before padding, `index` of the file that was read, `labels` (C,) and
            `polyphony` where the set has them, and `skipped`, a list of file problems; the last alone where the clip
            is dropped.

        Raises:
            ValueError: If, in training, 1000 files (or all) in a row cannot be read.
        """
        index, epoch = request if isinstance(request, tuple) else (request, 0)
        if not self.training:
            try:
                return self._sample(index, crop_position=0.0)
            except AudioFileError as error:
                return {"skipped": [error.problem]}
        rng = np.random.default_rng((self.seed, epoch, index))
        problems: list[FileProblem] = []
        try:
            return self._sample(index, self._crop_position(rng))
        except AudioFileError as error:
            problems.append(error.problem)
        for other in rng.choice(len(self), size=min(len(self), MAX_ATTEMPTS), replace=False):
            try:
                sample = self._sample(int(other), self._crop_position(rng))
            except AudioFileError as error:
                problems.append(error.problem)
            else:
                return sample | {"skipped": problems + sample["skipped"]}
        raise _nothing_readable(problems)

    def _crop_position(self, rng: np.random.Generator) -> float:
        return rng.random() if self.random_crop else 0.0

    def files_sha256(self) -> str:
        """SHA-256 of the sorted paths below the folder that all files have in common, one a line.

        It tells lists of files apart, wherever they lie; what the files hold does not count.
        """
        if self._files_sha256 is None:
            self._files_sha256 = paths_sha256(self._paths)
        return self._files_sha256

    def require_readable(self) -> None:
        """Look for one file that can be read.

        Raises:
            ValueError: If none of the files (or of 1000 among them) can be read.
        """
        problems = []
        for index in np.random.default_rng(self.seed).permutation(len(self))[:MAX_ATTEMPTS]:
            try:
                self._sample(int(index), crop_position=0.0)
            except AudioFileError as error:
                problems.append(error.problem)
            else:
                return
        raise _nothing_readable(problems)

    def _sample(self, index: int, crop_position: float) -> Sample:
        start = np.nan if self.start_seconds is None else self.start_seconds[index]
        span = (0.0, self.clip_seconds, crop_position) if np.isnan(start) else (float(start), self.clip_seconds)
        waveform, problem = decode_audio(self.path(index), SAMPLE_RATE, *span)
        num_samples = len(waveform)
        missing = round(self.clip_seconds * SAMPLE_RATE) - num_samples
        if missing > 0:
            waveform = np.concatenate([waveform, np.zeros(missing, np.float32)])
        sample: Sample = {"waveform": torch.from_numpy(waveform), "num_samples": num_samples, "index": index}
        if self.labels is not None:
            # Written out: scipy takes fifty times as long for a row.
            classes = self.labels.indices[self.labels.indptr[index] : self.labels.indptr[index + 1]].copy()
            labels = torch.zeros(self.labels.shape[1])
            labels[classes] = 1
            sample["labels"] = labels
        if self.polyphony is not None:
            sample["polyphony"] = int(self.polyphony[index])
        return sample | {"skipped": [problem] if problem else []}


def _nothing_readable(problems: Sequence[FileProblem]) -> ValueError:
    first = problems[0]
    return ValueError(
        f"None of the {len(problems)} audio files that were tried can be used; the first is '{first.path}' "
        f"({first.reason}). Point --data at readable wav, flac, mp3, ogg or opus files."
    )


def paths_sha256(paths: Texts) -> str:
    """SHA-256 of sorted paths below the folder that all have in common, one a line."""
    encoded = sorted(paths.encoded(row) for row in range(len(paths)))
    start = len(os.path.commonpath([os.path.dirname(encoded[0]), os.path.dirname(encoded[-1])])) if encoded else 0  # noqa: PTH120
    digest = hashlib.sha256()
    for path in encoded:
        digest.update(path[start:].lstrip(os.sep.encode()) + b"\n")
    return digest.hexdigest()
