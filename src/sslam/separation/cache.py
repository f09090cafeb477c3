"""Separated channels of training clips, made ahead of time: ``sslam separate --cache``.

A cache folder holds, for one checkpoint, ``<clip>.npy`` with the channels (N, T) of every clip, float32 at 16 kHz, and
``separation.jsonl`` with the checkpoint's hash and the list of clips.

Shape letters: B clips, N channels, T samples.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sslam.atomic_write import write_whole
from sslam.audio import SAMPLE_RATE, AudioFileError, DecodedAudio, FileProblem, Waveform, decode_audio
from sslam.checkpoints.loading import file_sha256
from sslam.checkpoints.location import resolve
from sslam.finished_files import VERSION, Entry, FinishedFiles, InputFile, read_list
from sslam.networks import Separator
from sslam.separation.waveform import rows_at_once, runs_of_one_kind

LIST = "separation.jsonl"
REMEDY = "Make it again: sslam separate FOLDER --checkpoint {checkpoint} --cache {cache}."


def cache_settings(checkpoint: str | Path) -> dict[str, str]:
    """What decides the channels in a cache."""
    return {"checkpoint_sha256": file_sha256(resolve(checkpoint).file), "output": "channels"}


def write_cache(separator: Separator, files: Sequence[InputFile], finished: FinishedFiles, batch_size: int) -> None:
    """Separate whole clips and keep their channels.

    Clips are read as the data modules read them: mono, at 16 kHz, from beginning to end. What they skip is skipped.

    Args:
        separator: Separator in eval mode, on its device.
        files: Clips that are not finished.
        finished: List in the cache's folder.
        batch_size: Clips of ten seconds that go through the network together, if consecutive ones have one length; of
            longer ones fewer.
    """
    device = next(separator.parameters()).device

    def readable() -> Iterator[tuple[InputFile, DecodedAudio]]:
        for file in tqdm(files, desc="separating", unit=" clips", disable=None):
            try:
                audio = decode_audio(file.path)
            except AudioFileError as error:
                finished.add(Entry(file, error.problem))
                continue
            yield file, audio

    def most(num_samples: int) -> int:
        return rows_at_once(batch_size, num_samples / SAMPLE_RATE)

    for clips in runs_of_one_kind(readable(), lambda clip: len(clip[1].waveform), most):
        waveform_BT = torch.from_numpy(np.stack([audio.waveform for _, audio in clips])).to(device)
        with torch.no_grad():
            channels_BNT = separator(waveform_BT).cpu().numpy()
        for (file, audio), channels_NT in zip(clips, channels_BNT, strict=True):
            if not np.isfinite(channels_NT).all():
                finished.add(Entry(file, FileProblem(file.path, "its channels are not finite", "skipped")))
                continue
            _save(finished.folder / file.output_name(".npy"), channels_NT)
            finished.add(Entry(file, audio.problem))


def _save(path: Path, channels_NT: Waveform) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as stream:  # given a name, NumPy would append .npy
            np.save(stream, channels_NT)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


class ChannelCache:
    """Reads the channels of clips from a cache folder, and refuses one that does not belong to them.

    Args:
        folder: Folder of one checkpoint, as ``sslam separate --cache`` makes it.
        checkpoint: The separator whose channels are wanted.

    Raises:
        ValueError: If there is no cache or another checkpoint made it.
    """

    def __init__(self, folder: Path, checkpoint: str | Path) -> None:
        self.folder = folder
        self.remedy = REMEDY.format(checkpoint=checkpoint, cache=folder.parent)
        path = folder / LIST
        if not path.is_file():
            raise ValueError(f"There is no cache of separated channels in {folder}. {self.remedy}")
        found, entries, _ = read_list(path)
        wanted = {"version": VERSION} | cache_settings(checkpoint)
        if found != wanted:
            raise ValueError(
                f"The channels in {folder} were made by another checkpoint or for another purpose ({found}) than "
                f"{checkpoint} ({wanted}). {self.remedy}"
            )
        clips = {str(Path(entry.file.path).absolute()): entry for entry in entries.values()}
        self.skipped = {clip for clip, entry in clips.items() if entry.is_skipped}
        self.files = {clip: entry.file for clip, entry in clips.items() if not entry.is_skipped}

    def check(self, paths: Sequence[str], num_samples: int) -> None:
        """Refuse a list of clips other than that of the cache, before training meets one.

        Args:
            paths: Files of the clips; bad ones, which the cache has skipped, are skipped in training as well.
            num_samples: T of the longest clip that is not cut.

        Raises:
            ValueError: If clips are missing, or longer.
        """
        clips = [str(Path(path).absolute()) for path in paths]
        missing = [clip for clip in clips if clip not in self.files and clip not in self.skipped]
        files = {clip: self.folder / self.files[clip].output_name(".npy") for clip in clips if clip in self.files}
        sizes = {clip: _size(file) for clip, file in files.items()}
        missing += [clip for clip, size in sizes.items() if size is None]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(paths)} clips are not in the cache {self.folder}, the first is {missing[0]}. "
                f"{self.remedy}"
            )
        if not sizes:
            return
        longest = max(sizes, key=lambda clip: sizes[clip] or 0)
        found = _load(files[longest], self.remedy).shape[1]
        if found > num_samples:
            raise ValueError(
                f"Channels are of whole files, and training cuts those longer than {num_samples / SAMPLE_RATE:g} s: "
                f"{longest} has {found / SAMPLE_RATE:g} s. Raise clip_seconds to that at least."
            )

    def read(self, path: str, num_samples: int) -> Tensor:
        """Channels (N, T) of a clip.

        Args:
            path: The clip's file.
            num_samples: T that the clip must have.

        Raises:
            ValueError: If the clip is not in the cache, has changed since, or has another length.
        """
        file = self.files.get(str(Path(path).absolute()))
        if file is None:
            raise ValueError(f"The clip {path} is not in the cache {self.folder}. {self.remedy}")
        if InputFile.at(path, file.name).stamp != file.stamp:
            raise ValueError(
                f"The clip {path} has changed since its channels in {self.folder} were made. {self.remedy}"
            )
        channels_NT = _load(self.folder / file.output_name(".npy"), self.remedy)
        if channels_NT.shape[1] != num_samples:
            raise ValueError(
                f"The clip {path} has {num_samples} samples and its channels in {self.folder} {channels_NT.shape[1]}. "
                f"{self.remedy}"
            )
        return torch.from_numpy(np.array(channels_NT))


def _size(file: Path) -> int | None:
    """Bytes of a file, by one question to the disk; None if it is not there."""
    try:
        return file.stat().st_size
    except OSError:
        return None


def _load(path: Path, remedy: str) -> Waveform:
    try:
        channels_NT: Waveform = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"The channels in {path} cannot be read ({error}). Remove the file. {remedy}") from error
    return channels_NT
