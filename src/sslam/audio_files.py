"""Audio files below folders and those that a command is given, and the list of those that were bad."""

import csv
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile

from sslam.audio import AUDIO_EXTENSIONS, FileProblem
from sslam.decoder_notes import decoder_notes
from sslam.errors import UsageError
from sslam.packed_audio import packed_clip, packed_folder


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
    clip = None
    if not Path(path).is_file() and (clip := packed_clip(path)) is None:
        return StatedSize(0, 0, 0)
    try:
        with decoder_notes(), soundfile.SoundFile(os.fsencode(path) if clip is None else clip.open()) as file:
            return StatedSize(file.samplerate, file.frames, file.channels)
    except (OSError, soundfile.SoundFileError, TypeError):  # TypeError: the extension .raw
        return StatedSize(0, 0, 0)


def audio_files_below(root: str | Path) -> Iterator[str]:
    """Paths, relative to ``root``, of all audio files below it; hidden files and folders are passed over.

    Links are followed, and each folder is listed once, whatever links lead to it. A folder that cannot be listed is
    left out with a warning. Of a packed folder these are its clips, see :mod:`sslam.packed_audio`.
    """
    if (packed := packed_folder(root)) is not None:
        yield from packed.names
        return
    # Strings, not a Path per file: there may be millions of them.
    prefix = len(os.path.join(root, ""))  # noqa: PTH118
    listed: set[tuple[int, int]] = set()
    pending = deque([str(root)])
    while pending:
        folder = pending.pop()
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in listed:
                continue
            listed.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        # Links come last, so that a folder has its own path wherever that lies below the root too.
                        (pending.appendleft if entry.is_symlink() else pending.append)(entry.path)
                    elif entry.name.lower().endswith(AUDIO_EXTENSIONS):
                        yield entry.path[prefix:]
        except OSError as error:
            warnings.warn(
                f"Cannot list the folder '{folder}' ({error.strerror}), so its files are left out. "
                "Give yourself the right to read it if they are wanted.",
                stacklevel=2,
            )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def find_audio_files(paths: Iterable[str]) -> dict[str, str]:
    """Files as they are, and the audio files of folders with their subfolders; see :func:`audio_files_below`.

    Returns:
        For each file, sorted, its path relative to the folder in which it was found; its name for a file as it is.

    Raises:
        UsageError: If a path does not exist, or there is no audio file at all.
    """
    paths = list(paths)
    found: dict[str, str] = {}
    for path in map(Path, paths):
        if path.is_file():
            found.setdefault(str(path), path.name)
        elif path.is_dir():
            for name in audio_files_below(path):
                found.setdefault(os.path.join(path, name), name)  # noqa: PTH118, a Path per file is ten times slower
        else:
            raise UsageError(
                f"{path} is neither a regular file nor a folder. Give audio files, or folders of them."
                if path.exists()
                else f"There is no file or folder {path}. Give audio files, or folders of them."
            )
    if not found:
        raise UsageError(
            f"No audio file in {', '.join(paths)}: looked for {', '.join(AUDIO_EXTENSIONS)}. Give a folder that holds "
            "some."
        )
    return dict(sorted(found.items()))


def as_text(name: str) -> str:
    """A file name, which on Linux is any bytes, as text that every writer takes."""
    return name.encode(errors="backslashreplace").decode()


def in_csv(text: str) -> str:
    """A text for a CSV file that a spreadsheet does not take for a formula: such a one is put behind an apostrophe."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def add_bad_files(path: Path, problems: Sequence[FileProblem]) -> None:
    """Add lines to a CSV file with the columns path, reason and action, which is made with its folder if need be."""
    if not problems:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        if stream.tell() == 0:
            writer.writerow(FileProblem._fields)
        writer.writerows([in_csv(text) for text in problem] for problem in problems)
