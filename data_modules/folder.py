"""Any tree of audio files, without labels."""

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from data_modules.base import AudioDataModule, require_folder
from data_modules.clips import AudioFileDataset, paths_sha256
from data_modules.kept_listing import Listed, kept_listing
from data_modules.manifest import read_manifest
from sslam.audio import AUDIO_EXTENSIONS
from sslam.audio_files import audio_files_below
from sslam.checks import within
from sslam.mapped_arrays import Texts
from sslam.packed_audio import index_files

REMEDY = "Pass --data.root with a folder that holds some."


def is_held_out(name: str, fraction: float) -> bool:
    """Whether a hash of the name falls into the held-out share: the same wherever the name occurs."""
    return int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest(), "big") < fraction * 2**64


def hold_out(names: list[str], fraction: float) -> tuple[list[str], list[str]]:
    """Split names into training and validation by a hash of each name.

    A file stays on its side when others are added or the folder moves.

    Args:
        names: Relative paths of the files.
        fraction: Expected share of the validation part, in [0, 1).

    Returns:
        Training names and validation names.

    Raises:
        ValueError: If the fraction is out of range or leaves one side without files.
    """
    within(0, 1, "[)", val_fraction=fraction)
    if fraction == 0:
        return names, []
    parts: tuple[list[str], list[str]] = ([], [])
    for name in names:
        parts[is_held_out(name, fraction)].append(name)
    if not all(parts):
        side = "training" if parts[1] else "validation"
        raise ValueError(
            f"val_fraction={fraction} of {len(names)} files leaves none for {side}. "
            "Choose another --data.val_fraction, or 0 for no validation."
        )
    return parts


def is_manifest(root: str) -> bool:
    """Whether a root is a TSV manifest."""
    return root.lower().endswith(".tsv") and Path(root).is_file()


def read_listing(root: str) -> tuple[Path, list[str]]:
    """The audio that a folder, a packed folder (``sslam data pack``) or a TSV manifest has.

    Args:
        root: Folder that is searched with its subfolders, or a file that ends in ``.tsv``.

    Returns:
        The folder, and the paths below it: those of folders sorted, those of a manifest as they are listed.

    Raises:
        ValueError: If there is no audio, or the manifest is wrong.
    """
    if is_manifest(root):
        return read_manifest(root)
    folder = require_folder(root)
    names = sorted(audio_files_below(folder))
    if not names:
        shards = any(folder.glob("*.tar"))
        remedy = f"Make the index of its shards: sslam data index {root}." if shards else REMEDY
        raise ValueError(f"No audio file below '{root}': looked for {', '.join(AUDIO_EXTENSIONS)}. {remedy}")
    return folder, names


class FolderDataModule(AudioDataModule):
    """All audio of a folder, a packed folder or a manifest, for learning without labels.

    Args:
        root: Folder that is searched with its subfolders, packed folder (``sslam data pack``), or TSV manifest
            (``sslam data index``).
        val_fraction: Share of the files that is held out for validation, chosen by a hash of the file's path below
            `root`; 0 trains on all of them and validates on none.
        **kwargs: Arguments of :class:`~data_modules.base.AudioDataModule`.
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
        lists = [Path(self.root)] if is_manifest(self.root) else index_files(self.root)
        # All clips are the training set where none is held out, and then nothing is to be read twice.
        val_fraction = 0.0 if stage == "predict" else self.val_fraction
        settings = {"kind": "clips", "root": self.root, "val_fraction": val_fraction}
        listed = kept_listing(lists, settings, lambda _: self._read(val_fraction))
        if stage == "predict":
            self.predict_set = self._dataset(listed, "training", training=False)
            return
        if stage == "fit":
            self.train_set = self._dataset(listed, "training", training=True)
        self.val_set = self.test_set = self._dataset(listed, "validation", training=False) if val_fraction else None

    def _read(self, val_fraction: float) -> Listed:
        return self._listed(*read_listing(self.root), val_fraction)

    @staticmethod
    def _listed(root: Path, names: list[str], val_fraction: float) -> Listed:
        prefix = os.path.join(root, "")  # noqa: PTH118, a Path per file is ten times slower
        arrays: dict[str, NDArray[Any]] = {}
        about: dict[str, Any] = {}
        for split, part in zip(("training", "validation"), hold_out(names, val_fraction), strict=True):
            paths = Texts.of(prefix + name for name in part)
            arrays |= paths.arrays(split)
            about[split] = paths_sha256(paths)
        return Listed(arrays, about)

    def _dataset(self, listed: Listed, split: str, training: bool) -> AudioFileDataset:
        return AudioFileDataset(
            Texts.from_arrays(split, listed.arrays),
            self.clip_seconds,
            training,
            seed=self.seed,
            random_crop=self.random_crop,
            files_sha256=listed.about[split],
        )


class ManifestDataModule(FolderDataModule):
    """The files of a TSV manifest (first line the root, then `path<TAB>number`), for learning without labels.

    Args:
        manifest: Path of the TSV file.
        val_fraction: Share of the files that is held out for validation, chosen by a hash of the path in the manifest;
            0 trains on all of them and validates on none.
        **kwargs: Arguments of :class:`~data_modules.base.AudioDataModule`.
    """

    def __init__(
        self,
        manifest: str,
        val_fraction: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(manifest, val_fraction, **kwargs)
        self.manifest = manifest

    def _read(self, val_fraction: float) -> Listed:
        return self._listed(*read_manifest(self.manifest), val_fraction)
