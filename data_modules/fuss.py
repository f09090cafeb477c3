"""FUSS: ten-second mixtures of one to four sources with the sources beside them (Wisdom et al., ICASSP 2021).

Shape letters: B clips, N sources, T samples.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.base import STAGE_SPLITS, AudioDataModule, require_folder
from data_modules.metadata import read_text
from data_modules.mixtures import MixtureFilesDataset
from sslam.audio_files import audio_files_below

MAX_SOURCES = 4  # one background, which every mixture has, and up to three foregrounds
FOLDERS = {"training": "train", "validation": "validation", "test": "eval"}


class Example(NamedTuple):
    """A mixture and its sources, the background first: paths below the folder that holds the splits."""

    mixture: str
    sources: Sequence[str]


def read_example_list(path: Path) -> list[Example]:
    """Read lines of `mixture<TAB>background<TAB>foreground<TAB>...`, as `train_example_list.txt` has them.

    Raises:
        ValueError: If a line does not name a mixture and one to four sources.
    """
    examples = []
    for line, text in enumerate(read_text(path, "FUSS list").splitlines(), start=1):
        if not text.strip():
            continue
        mixture, *sources = text.split("\t")
        if not 1 <= len(sources) <= MAX_SOURCES:
            raise ValueError(
                f"FUSS list '{path}', line {line}: expected a mixture and 1 to {MAX_SOURCES} sources, separated by "
                f"tabs, got '{text}'. Take the official file."
            )
        examples.append(Example(mixture, sources))
    return examples


def find_examples(folder: str, files: Sequence[str]) -> list[Example]:
    """Examples by the official names, `train/example00000.wav` with `train/example00000_sources/*.wav`, sorted.

    Args:
        folder: Name of the split's folder, such as "train".
        files: All audio files below this folder, each path beginning with its name.
    """
    sources: dict[str, list[str]] = {}
    for name in sorted(files):
        parent, _, _ = name.rpartition("/")
        if parent.endswith("_sources"):
            sources.setdefault(parent.removesuffix("_sources"), []).append(name)
    mixtures = sorted(name for name in files if name.rpartition("/")[0] == folder)
    return [Example(name, sources.get(os.path.splitext(name)[0], [])) for name in mixtures]  # noqa: PTH122


class FUSSDataset(MixtureFilesDataset):
    """Mixtures of one to four sources, with `stems` float32 (4, T) where these are given.

    Args:
        paths: Files of the mixtures.
        sources: Files of the sources, one to four of each mixture; None gives no stems.
        **kwargs: Arguments of :class:`~data_modules.audio_file_dataset.AudioFileDataset`.
    """

    def __init__(self, paths: Sequence[str], sources: Sequence[Sequence[str]] | None, **kwargs: Any) -> None:
        super().__init__(paths, sources, MAX_SOURCES, **kwargs)


class FUSSDataModule(AudioDataModule):
    """FUSS as its archives are extracted: splits train, validation and eval (for test).

    A split's mixtures and their sources are those that `train_example_list.txt` (and the like) beside its folder names.
    Where there is no such list, they are all `example*.wav` of the folder, each with the files of
    `example*_sources/`. Batches with stems have `stems` float32 (B, 4, T), which sum up to `waveform` within the
    rounding of 16-bit files: the background, up to three foregrounds, then rows of zeros.

    Args:
        root: Folder that holds `ssdata` or `ssdata_reverb`, or one of these itself.
        reverb: Whether to use `ssdata_reverb`, mixed in simulated rooms, instead of the dry `ssdata`.
        return_stems: Whether batches have stems; None has them in validation and test and leaves them out of training,
            which MixIT does without and which reads a third of the files then.
        **kwargs: Arguments of :class:`~data_modules.base.AudioDataModule`.
    """

    def __init__(
        self, root: str = "data/fuss", reverb: bool = False, return_stems: bool | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.reverb = reverb
        self.return_stems = return_stems

    @property
    def title(self) -> str:
        return "FUSS reverberant" if self.reverb else "FUSS"

    def make_sets(self, stage: str) -> None:
        folder = self._folder()
        sets = {split: self._make_set(folder, split) for split in STAGE_SPLITS[stage]}
        self.train_set = sets.get("training", self.train_set)
        self.val_set = sets.get("validation", self.val_set)
        self.test_set = self.predict_set = sets.get("test", self.test_set)

    def _folder(self) -> Path:
        root = require_folder(self.root, "FUSS folder")
        wanted, other = ("ssdata_reverb", "ssdata") if self.reverb else ("ssdata", "ssdata_reverb")
        if (root / wanted).is_dir():
            return root / wanted
        has_splits = any((root / folder).is_dir() for folder in FOLDERS.values())
        if has_splits and root.resolve().name != other:
            return root
        is_other = has_splits or (root / other).is_dir()
        switch = f", or --data.reverb {str(not self.reverb).lower()} to use '{other}'" if is_other else ""
        raise ValueError(
            f"FUSS folder '{root}' neither holds '{wanted}' nor is it. Extract FUSS_{wanted}.tar.gz there, or pass "
            f"--data.root with the folder that holds '{wanted}'{switch}."
        )

    def _make_set(self, folder: Path, split: str) -> FUSSDataset:
        is_training = split == "training"
        with_stems = not is_training if self.return_stems is None else self.return_stems
        examples = self._examples(folder, FOLDERS[split], with_stems)
        prefix = os.path.join(folder, "")  # noqa: PTH118, strings, not a Path for each of 80 000 files
        return FUSSDataset(
            [prefix + example.mixture for example in examples],
            [[prefix + source for source in example.sources] for example in examples] if with_stems else None,
            clip_seconds=self.clip_seconds,
            training=is_training,
            seed=self.seed,
            random_crop=self.random_crop,
        )

    def _examples(self, folder: Path, name: str, with_stems: bool) -> list[Example]:
        files = [f"{name}/{file}" for file in audio_files_below(require_folder(folder / name, "FUSS folder"))]
        example_list = folder / f"{name}_example_list.txt"
        has_list = example_list.is_file()
        examples = read_example_list(example_list) if has_list else find_examples(name, files)
        where = example_list if has_list else folder / name
        archive = f"FUSS_{'ssdata_reverb' if self.reverb else 'ssdata'}.tar.gz"
        if not examples:
            raise ValueError(f"{self.title}: '{where}' has no mixture. Extract {archive} again.")
        found = set(files)
        wanted = [(example.mixture, *(example.sources if with_stems else ())) for example in examples]
        missing = [file for row in wanted for file in row if file not in found]
        if missing:
            raise ValueError(
                f"{self.title}: {len(missing)} of the {sum(map(len, wanted))} files that '{where}' lists are missing, "
                f"first '{folder / missing[0]}'. Extract {archive} again, or take their lines out of the list."
            )
        counts = [len(example.sources) for example in examples]
        wrong = [row for row, count in enumerate(counts) if not 1 <= count <= MAX_SOURCES]
        if with_stems and wrong:
            first = os.path.splitext(examples[wrong[0]].mixture)[0] + "_sources"  # noqa: PTH122
            raise ValueError(
                f"{self.title}: {len(wrong)} of the {len(examples)} mixtures in '{where}' have not 1 to {MAX_SOURCES} "
                f"sources, first {counts[wrong[0]]} in '{folder / first}'. Extract {archive} again, or pass "
                "--data.return_stems false to do without sources."
            )
        return examples
