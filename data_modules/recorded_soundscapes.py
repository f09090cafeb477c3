"""Scenes of recordings: polyphonic scenes rendered on the fly from a folder of anybody's own labelled recordings.

Shape letter: N recordings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data_modules.backgrounds import Background, RecordedBackgrounds
from data_modules.base import require_folder
from data_modules.class_folder import ClassFolderDataModule
from data_modules.event_sources import RecordedEvents
from data_modules.recordings import Recording, is_csv
from data_modules.scanned_recordings import ScannedRecording, scan_recordings
from data_modules.scenes import SceneRenderer
from data_modules.soundscapes import SoundscapesDataModule
from sslam.audio import FileProblem
from sslam.audio_files import audio_files_below


class RecordedSoundscapesDataModule(SoundscapesDataModule):
    """Polyphonic scenes whose events are recordings of classes, over noise, nothing, or recorded backgrounds.

    Recordings are divided before anything is rendered: test scenes are made of those of one fold, validation scenes of
    those of the next one, training scenes of all others. Recordings of one group and recordings of identical audio are
    in one fold, as :class:`~data_modules.class_folder.ClassFolderDataModule` makes the folds, so none is heard on two
    sides. Every scene is rendered when it is asked for, the same for the same seed and index.

    An event is a part of one recording, drawn at random. It begins and ends where the recording sounds (at most 40 dB
    below its loudest 10 ms) and fades over 10 ms, so onset and offset are true to about 20 ms; pauses inside belong
    to it. Stems are the events as they sound in the scene.

    Args:
        root: Folder of class folders, or CSV file `file,label[,fold][,group]`, with one label for each recording.
        fold: Fold of the recordings of test scenes, from 1 on or of the CSV file's column. The next fold is that of
            validation scenes; without these, with `num_val_scenes` 0, it is left to training.
        num_folds: Number of folds where they are made.
        fold_seed: Seed of the folds where they are made.
        audio: Folder of the audio of a CSV file that does not lie beside it.
        name: Name of the recordings in tables; that of the folder or file if not given.
        background: Background of the scenes; None takes coloured noise. With `data_modules.Silence` there are events
            alone, and their `snr_db` are levels over one that all scenes share.
        background_root: Folder of background recordings, instead of `background`; none of them is heard on two sides
            either.
        **kwargs: Arguments of :class:`~data_modules.soundscapes.SoundscapesDataModule`.
    """

    class_names: Sequence[str] = ()
    variants: ClassVar[Mapping[str, Sequence[Any]]] = ClassFolderDataModule.variants

    def __init__(
        self,
        root: str,
        fold: int = 1,
        num_folds: int = 5,
        fold_seed: int = 0,
        audio: str | None = None,
        name: str | None = None,
        background: Background | None = None,
        background_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if background is not None and background_root is not None:
            raise ValueError(
                f"background_root '{background_root}' and background are both given. Leave one of them out."
            )
        self.recordings = ClassFolderDataModule(
            root, fold, num_folds, fold_seed, single_label=True, audio=audio, name=name
        )
        self.root = root
        self.fold = fold
        self.background_root = background_root
        if background is not None:
            self.renderer = replace(self.renderer, background=background)
        self.renderer = replace(self.renderer, stems_fit=True)
        self._renderers: dict[str, SceneRenderer] | None = None
        self.problems: list[FileProblem] = []
        """What was wrong with recordings; known when the sets are made."""
        self._heard: list[str] = []

    @classmethod
    def variants_of(cls, arguments: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        return ClassFolderDataModule.variants_of(arguments)

    @property
    def title(self) -> str:
        return f"Scenes of {self.recordings.title}"

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.trainer is None or self.trainer.is_global_zero:
            self.bad_files.add(self.problems)

    def renderer_of(self, split: str) -> SceneRenderer:
        if self._renderers is None:  # once for all stages of a run
            self._renderers = self._read()
        return self._renderers[split]

    @property
    def recordings_digest(self) -> str:
        """Hash of what is heard in which split, as which class; known when the sets are made."""
        return blake2b("\n".join(self._heard).encode(), digest_size=16).hexdigest()

    @property
    def audio_folder(self) -> Path:
        """Where the recordings of events lie."""
        return Path(self.recordings.audio or (Path(self.root).parent if is_csv(self.root) else self.root))

    def _read(self) -> dict[str, SceneRenderer]:
        recordings, table, folds_N, groups_N = self.recordings.contents
        assert folds_N is not None
        assert groups_N is not None
        self.class_names = self.recordings.class_names
        self._require_whole_groups(recordings, folds_N, groups_N)
        found, problems = scan_recordings([table.paths[row] for row in np.flatnonzero(table.is_found).tolist()])
        self.problems = [*self.recordings.problems, *problems]
        folds = np.unique(folds_N).tolist()
        parts = self._parts(len(folds), folds.index(self.fold), "folds. Raise --data.num_folds")
        labels_N = table.labels.argmax(axis=1).tolist()
        renderers = {}
        for split, part in parts.items():
            rows = [row for row, path in enumerate(table.paths) if path in found and folds.index(folds_N[row]) in part]
            if not rows:
                raise ValueError(
                    f"{self.title_and_fold}: no recording can be used of fold(s) "
                    f"{', '.join(str(folds[at]) for at in part)}, for {split} scenes. Add recordings, or correct the "
                    "folds."
                )
            heard = [found[table.paths[row]] for row in rows]
            labels = [labels_N[row] for row in rows]
            renderers[split] = replace(self.renderer, event_source=RecordedEvents(self.class_names, heard, labels))
            self._note(split, heard, labels)
        if self.background_root is None:
            return renderers
        groups = self._background_groups(Path(self.background_root), found)
        num_parts = min(len(folds), len(groups))
        parts = self._parts(
            num_parts,
            folds.index(self.fold) % num_parts,
            f"background recordings in '{self.background_root}'. Add some",
        )
        for split, part in parts.items():
            heard = [recording for at, group in enumerate(groups) if at % num_parts in part for recording in group]
            renderers[split] = replace(renderers[split], background=RecordedBackgrounds(heard))
            self._note(split, heard, [-1] * len(heard))
        return renderers

    def _note(self, split: str, recordings: Sequence[ScannedRecording], labels: Sequence[int]) -> None:
        self._heard += [
            f"{split} {label} {recording.fingerprint}" for recording, label in zip(recordings, labels, strict=True)
        ]

    def _parts(self, num_parts: int, held_out: int, what: str) -> dict[str, list[int]]:
        """Which of the parts each split has, counted from 0; validation is left out where it is not wanted."""
        validation = [(held_out + 1) % num_parts] if self.num_val_scenes else []
        training = [part for part in range(num_parts) if part not in (held_out, *validation)]
        if not training:
            raise ValueError(
                f"{self.title_and_fold}: test{' and validation' if validation else ''} scenes leave nothing for "
                f"training of {num_parts} {what}" + (", or pass --data.num_val_scenes 0." if validation else ".")
            )
        splits = {"training": training, "validation": validation, "test": [held_out]}
        return {split: part for split, part in splits.items() if part}

    def _require_whole_groups(
        self, recordings: Sequence[Recording], folds_N: NDArray[np.int64], groups_N: NDArray[np.int64]
    ) -> None:
        first_of: dict[int, int] = {}
        for row, group in enumerate(groups_N.tolist()):
            first = first_of.setdefault(group, row)
            if folds_N[first] != folds_N[row]:
                raise ValueError(
                    f"'{self.root}' has '{recordings[first].name}' in fold {folds_N[first]} and "
                    f"'{recordings[row].name}' in fold {folds_N[row]}, which are of one group or hold the same audio, "
                    "so that it would be heard on two sides. Correct the column fold, or leave it out."
                )

    def _background_groups(self, root: Path, events: Mapping[str, ScannedRecording]) -> list[list[ScannedRecording]]:
        """Background recordings in a random order, those of identical audio together."""
        require_folder(root, "Background folder", "--data.background_root")
        found, problems = scan_recordings([str(root / name) for name in sorted(audio_files_below(root))])
        self.problems += problems
        groups: dict[str, list[ScannedRecording]] = {}
        for recording in found.values():
            groups.setdefault(recording.fingerprint, []).append(recording)
        if not groups:
            raise ValueError(
                f"Background folder '{root}' has no usable recording. Pass --data.background_root with a folder that "
                "holds some, or leave it out for noise."
            )
        for event in events.values():
            if event.fingerprint in groups:
                raise ValueError(
                    f"Background recording '{groups[event.fingerprint][0].path}' holds the same audio as the event "
                    f"recording '{event.path}', and would be heard without its label. Remove one of them."
                )
        order = np.random.default_rng(self.recordings.fold_seed).permutation(len(groups))
        in_order = [groups[fingerprint] for fingerprint in sorted(groups)]
        return [in_order[at] for at in order.tolist()]
