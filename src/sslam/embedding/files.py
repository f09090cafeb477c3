"""Which audio files are meant, and in which batches they are read."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import soundfile

from sslam.audio import AUDIO_EXTENSIONS


class EmbeddingError(ValueError):
    """``sslam embed`` cannot do what was asked; the message names the value, the rule and the remedy."""


def find_audio_files(paths: Iterable[str]) -> list[str]:
    """Files as they are, and the audio files of folders with their subfolders; sorted, each path once.

    Hidden files and folders are passed over; links are followed, each folder once.

    Raises:
        EmbeddingError: If a path does not exist, or there is no audio file at all.
    """
    paths = list(paths)
    found: set[str] = set()
    for path in map(Path, paths):
        if path.is_file():
            found.add(str(path))
        elif path.is_dir():
            found.update(_audio_files_below(path))
        else:
            raise EmbeddingError(f"There is no file or folder {path}. Give audio files, or folders of them.")
    if not found:
        raise EmbeddingError(
            f"No audio file in {', '.join(paths)}: looked for {', '.join(AUDIO_EXTENSIONS)}. Give a folder that holds "
            "some."
        )
    return sorted(found)


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


def stated_seconds(path: str) -> float:
    """Length by the file's header, which may be wrong; 0 where there is none to read."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            return float(file.frames / max(1, file.samplerate))
    except (soundfile.SoundFileError, TypeError):  # TypeError: the extension .raw
        return 0.0


def fill(lengths: Sequence[float], most_items: int, most_length: float) -> list[slice]:
    """Cut a sequence into runs of at most so many items and so much length together, but at least one item."""
    runs: list[slice] = []
    start, total = 0, 0.0
    for position, length in enumerate(lengths):
        if position > start and (position - start == most_items or total + length > most_length):
            runs.append(slice(start, position))
            start, total = position, 0.0
        total += length
    if start < len(lengths):
        runs.append(slice(start, len(lengths)))
    return runs
