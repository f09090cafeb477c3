"""Audio files and folders that a command is given, and the list of those that were bad."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import soundfile

from sslam.audio import AUDIO_EXTENSIONS, FileProblem
from sslam.errors import UsageError


class StatedSize(NamedTuple):
    """What a file's header says, which may be wrong: rate in Hz, samples per channel, channels."""

    sample_rate: int
    num_samples: int
    num_channels: int

    @property
    def seconds(self) -> float:
        return self.num_samples / max(1, self.sample_rate)


def stated_size(path: str) -> StatedSize:
    """Size by the file's header; zeros where there is none to read."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            return StatedSize(file.samplerate, file.frames, file.channels)
    except (soundfile.SoundFileError, TypeError):  # TypeError: the extension .raw
        return StatedSize(0, 0, 0)


def find_audio_files(paths: Iterable[str]) -> list[str]:
    """Files as they are, and the audio files of folders with their subfolders; sorted, each path once.

    Raises:
        UsageError: As :func:`find_named_audio_files`.
    """
    return sorted(find_named_audio_files(paths))


def find_named_audio_files(paths: Iterable[str]) -> dict[str, str]:
    """Files as they are, and the audio files of folders with their subfolders.

    Hidden files and folders are passed over; links are followed, each folder once.

    Returns:
        For each file its path relative to the folder in which it was found; its name alone for a file as it is.

    Raises:
        UsageError: If a path does not exist, or there is no audio file at all.
    """
    paths = list(paths)
    found: dict[str, str] = {}
    for path in map(Path, paths):
        if path.is_file():
            found.setdefault(str(path), path.name)
        elif path.is_dir():
            for file in _audio_files_below(path):
                found.setdefault(file, os.path.relpath(file, path))
        else:
            raise UsageError(f"There is no file or folder {path}. Give audio files, or folders of them.")
    if not found:
        raise UsageError(
            f"No audio file in {', '.join(paths)}: looked for {', '.join(AUDIO_EXTENSIONS)}. Give a folder that holds "
            "some."
        )
    return found


def _audio_files_below(root: Path) -> Iterable[str]:
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(AUDIO_EXTENSIONS) and not name.startswith("."):
                yield os.path.join(folder, name)  # noqa: PTH118, a Path per file is ten times slower


def write_bad_files(path: Path, problems: Iterable[FileProblem]) -> None:
    """A CSV file with the columns path, reason and action, as the data modules write it."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(FileProblem._fields)
        writer.writerows(problems)
