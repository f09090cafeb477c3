"""Speech Commands: one-second recordings of single words (Warden 2018, arXiv:1804.03209), v0.01 and v0.02."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import soundfile

from data_modules.base import require_folder
from data_modules.labelled import LabelledDataModule
from data_modules.listing import ClipTable, find_listed, label_matrix
from data_modules.metadata import class_column, read_text, require_file
from sslam.audio_files import audio_files_below

WORDS = (  # noqa: SIM905, a list literal would take a line per name
    "backward bed bird cat dog down eight five follow forward four go happy house learn left marvin nine no off on one "
    "right seven sheila six stop three tree two up visual wow yes zero"
).split()
NEW_WORDS = ("backward", "follow", "forward", "learn", "visual")  # not in v0.01
SUPERB_CLASSES = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_"]
NOISE_FOLDER = "_background_noise_"
# Shares of each noise file, in time, that are silence in training and validation; the rest is for the test.
SILENCE_SHARES = {"training": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}


class Clip(NamedTuple):
    """A recording below the root, the column of its class, and where it starts in its file (NaN: it is the file)."""

    name: str
    column: int
    start: float = np.nan


class SpeechCommandsDataModule(LabelledDataModule):
    """Speech Commands with the official `validation_list.txt` and `testing_list.txt`; what is in neither list trains.

    With 35 classes (KS2) these are the words of v0.02, in alphabetical order. With 12 classes (KS1, as in SUPERB) they
    are ten words of v0.01, `_unknown_` (all other words) and `_silence_`, which is cut from the files in
    `_background_noise_/`: pieces of `clip_seconds`, of each file the first 80 % for training, 10 % for validation and
    the last 10 % for test. SUPERB's own test set is another archive, `speech_commands_test_set_v0.01`, with a folder
    per class: pass it as `test_root`. Without it the test is made from `testing_list.txt` and the noise files, and its
    result, which has a title of its own, must not be compared with published ones. SUPERB trains on random parts of the
    whole noise files and draws all classes equally often: `balanced_sampling` with `draw_with_replacement`.

    As training clips are listed nowhere, all that are there count as listed.

    Args:
        root: Folder of v0.02 (35 classes) or v0.01 (12 classes), with one folder per word; None stands for
            `data/speech_commands_v0.02` or `data/speech_commands_v0.01`.
        classes: Number of classes, 35 or 12.
        test_root: Folder of the official test set, for 12 classes only; None makes the test from `root`.
        clip_seconds: Length of every clip, 0.025 to 120; the recordings last up to 1 s.
        **kwargs: Arguments of :class:`~data_modules.labelled.LabelledDataModule`.
    """

    single_label = True
    variants: ClassVar[Mapping[str, Sequence[Any]]] = {"classes": (12, 35)}

    def __init__(
        self,
        root: str | None = None,
        classes: Literal[12, 35] = 35,
        test_root: str | None = None,
        clip_seconds: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(clip_seconds=clip_seconds, **kwargs)
        if test_root is not None and classes != 12:
            raise ValueError(
                f"test_root is the test set of 12 classes, got {classes} classes. Leave --data.test_root out, or pass "
                "--data.classes 12."
            )
        self.classes = classes
        self.test_root = test_root
        self.version = "v0.02" if classes == 35 else "v0.01"
        self.root = root or f"data/speech_commands_{self.version}"
        self.words = WORDS if classes == 35 else [word for word in WORDS if word not in NEW_WORDS]
        self.class_names = WORDS if classes == 35 else SUPERB_CLASSES
        self.columns = {name: column for column, name in enumerate(self.class_names)}

    @property
    def title(self) -> str:
        # Scores on another test set than the published ones must not stand in their column.
        is_own = self.classes == 12 and self.test_root is None
        return f"Speech Commands {self.version}{', own test set' if is_own else ''}"

    def read_splits(self, splits: Sequence[str]) -> dict[str, ClipTable]:
        root = require_folder(self.root, "Speech Commands folder")
        listed = {
            "validation": self._read_list(root / "validation_list.txt"),
            "test": self._read_list(root / "testing_list.txt"),
        }
        on_disk = [name for name in sorted(audio_files_below(root)) if name.count(os.sep) == 1]
        not_training = {clip.name for clips in listed.values() for clip in clips}
        listed["training"] = [clip for clip in self._words(root, on_disk) if clip.name not in not_training]
        tables = {}
        for split in splits:
            if split == "test" and self.test_root is not None:
                tables[split] = self._official_test(require_folder(self.test_root, "Test set", "--data.test_root"))
                continue
            if split == "test" and self.classes == 12:
                warnings.warn(
                    "The test set of 12 classes is our own, made from testing_list.txt and the noise files: the result "
                    "must not be compared with published ones. Pass --data.test_root with the folder of "
                    "speech_commands_test_set_v0.01.",
                    stacklevel=2,
                )
            silence = self._silence(root, on_disk, SILENCE_SHARES[split]) if self.classes == 12 else []
            tables[split] = self._table(root, listed[split] + silence)
        return tables

    def _column(self, word: str) -> int:
        return self.columns[word] if word in self.columns else self.columns["_unknown_"]

    def _read_list(self, path: Path) -> list[Clip]:
        require_file(path, "List of Speech Commands", "Pass --data.root with the folder of the unpacked archive.")
        words = {word: self._column(word) for word in self.words}
        lines = enumerate(read_text(path, "List of Speech Commands").splitlines(), start=1)
        return [
            Clip(text.strip(), class_column(text.partition("/")[0], words, path, line))
            for line, text in lines
            if text.strip()
        ]

    def _words(self, root: Path, on_disk: Sequence[str]) -> list[Clip]:
        """All recordings of words; checks that the folders are those of the version."""
        folders = {name.partition(os.sep)[0] for name in on_disk} - {NOISE_FOLDER}
        for wrong, what in (
            (sorted(folders.difference(self.words)), "is no word"),
            (sorted(set(self.words) - folders), "is a word without recordings"),
        ):
            if wrong:
                raise ValueError(
                    f"Speech Commands {self.version} in '{root}': unknown label, '{wrong[0]}' {what} "
                    f"({len(wrong)} such). {self.classes} classes need {self.version}: pass its folder as --data.root."
                )
        return [
            Clip(name, self._column(word)) for name in on_disk if (word := name.partition(os.sep)[0]) != NOISE_FOLDER
        ]

    def _silence(self, root: Path, on_disk: Sequence[str], share: tuple[float, float]) -> list[Clip]:
        """Pieces of the noise files, one after the other."""
        files = [name for name in on_disk if name.startswith(NOISE_FOLDER + os.sep)]
        if not files:
            raise ValueError(
                f"Speech Commands {self.version}: no audio in '{root / NOISE_FOLDER}', from which the class _silence_ "
                "is cut. Take the complete archive."
            )
        pieces = []
        for name in files:
            try:
                seconds = soundfile.info(root / name).duration
            except soundfile.SoundFileError as error:
                raise ValueError(f"Cannot read the noise file '{root / name}'. Take the official file.") from error
            count = int(seconds / self.clip_seconds)
            first, last = (round(border * count) for border in share)
            pieces += [
                Clip(name, self.columns["_silence_"], number * self.clip_seconds) for number in range(first, last)
            ]
        return pieces

    def _official_test(self, root: Path) -> ClipTable:
        clips = []
        for name in sorted(audio_files_below(root)):
            folder = name.partition(os.sep)[0]
            if folder not in self.columns:
                raise ValueError(
                    f"Test set '{root}': unknown label, the folder '{folder}' is none of {', '.join(self.columns)}. "
                    "Pass --data.test_root with the folder of speech_commands_test_set_v0.01."
                )
            clips.append(Clip(name, self.columns[folder]))
        if missing := sorted(set(self.columns) - {self.class_names[clip.column] for clip in clips}):
            raise ValueError(
                f"Test set '{root}' has no audio of {', '.join(missing)}. Pass --data.test_root with the folder of "
                "speech_commands_test_set_v0.01."
            )
        return self._table(root, clips)

    def _table(self, root: Path, clips: Sequence[Clip]) -> ClipTable:
        return ClipTable(
            root,
            *find_listed(root, [clip.name for clip in clips]),
            label_matrix([[clip.column] for clip in clips], len(self.columns)),
            start_seconds=np.array([clip.start for clip in clips], np.float32),
        )
