"""Any tree of audio files, without labels."""

import os
import warnings
from collections import deque
from hashlib import blake2b
from pathlib import Path
from typing import Any

from data_modules.base import AudioDataModule, AudioFileDataset, require_folder
from sslam.audio import AUDIO_EXTENSIONS


def find_audio_files(root: Path) -> list[str]:
    """Paths, relative to `root` and sorted, of all audio files below it; hidden files and folders are passed over.

    Links are followed, and each folder is listed once, whatever links lead to it. A folder that cannot be listed is
    left out with a warning.
    """
    # Strings, not a Path per file: there may be millions of them.
    prefix = len(os.path.join(root, ""))  # noqa: PTH118
    found: list[str] = []
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
                    if entry.is_dir():
                        # Links come last, so that a folder has its own path wherever that lies below the root too.
                        (pending.appendleft if entry.is_symlink() else pending.append)(entry.path)
                    elif entry.name.lower().endswith(AUDIO_EXTENSIONS):
                        found.append(entry.path[prefix:])
        except OSError as error:
            warnings.warn(
                f"Cannot list the folder '{folder}' ({error.strerror}), so its files are left out. "
                "Give yourself the right to read it if they are wanted.",
                stacklevel=2,
            )
    return sorted(found)


def hold_out(names: list[str], fraction: float) -> tuple[list[str], list[str]]:
    """Split names into training and validation by a hash of each name.

    A file stays on its side when others are added or the folder moves.

    Args:
        names: Relative paths.
        fraction: Expected share of the validation part, in [0, 1).

    Returns:
        Training names and validation names.

    Raises:
        ValueError: If the fraction is out of range or leaves one side without files.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {fraction}.")
    if fraction == 0:
        return names, []
    parts: tuple[list[str], list[str]] = ([], [])
    for name in names:
        share = int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest(), "big") / 2**64
        parts[share < fraction].append(name)
    if not all(parts):
        side = "training" if parts[1] else "validation"
        raise ValueError(
            f"val_fraction={fraction} of {len(names)} files leaves none for {side}. "
            "Choose another --data.val_fraction, or 0 for no validation."
        )
    return parts


class FolderDataModule(AudioDataModule):
    """All wav, flac, mp3 and ogg files below a folder, for learning without labels.

    Args:
        root: The folder; searched with its subfolders.
        val_fraction: Share of the files that is held out for validation, chosen by a hash of the file's path below
            `root`; 0 trains on all of them and validates on none.
        **kwargs: Of :class:`~data_modules.base.AudioDataModule`.
    """

    def __init__(
        self,
        root: str,
        val_fraction: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.val_fraction = val_fraction

    def make_sets(self, stage: str) -> None:
        root = require_folder(self.root)
        names = find_audio_files(root)
        if not names:
            raise ValueError(
                f"No audio file below '{root}': looked for {', '.join(AUDIO_EXTENSIONS)}. "
                "Pass --data.root with a folder that holds some."
            )
        self._use(stage, root, names)

    def _use(self, stage: str, root: Path, names: list[str]) -> None:
        # Only what the stage needs: with millions of files every set takes seconds and hundreds of megabytes.
        if stage == "predict":
            self.predict_set = self._dataset(root, names, training=False)
            return
        train_names, val_names = hold_out(names, self.val_fraction)
        if stage == "fit":
            self.train_set = self._dataset(root, train_names, training=True)
        self.val_set = self.test_set = self._dataset(root, val_names, training=False) if val_names else None

    def _dataset(self, root: Path, names: list[str], training: bool) -> AudioFileDataset:
        base = str(root)
        paths = [os.path.join(base, name) for name in names]  # noqa: PTH118, a Path per file is ten times slower
        return AudioFileDataset(paths, self.clip_seconds, training, seed=self.seed)
