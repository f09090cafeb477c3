"""What a command that goes through audio files has finished, so that after an interruption it can go on.

The list is a file of JSON lines in the folder of the outputs: the settings in its first line, and then a line for each
file that is finished or bad. A line is written when the file's outputs are there, so that a kill leaves nothing by
halves.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sslam.atomic_write import write_whole
from sslam.audio import FileProblem
from sslam.errors import UsageError
from sslam.folder_lock import LOCK, lock_folder

VERSION = 1


@dataclass(frozen=True)
class InputFile:
    """A file of the input.

    Attributes:
        path: As it was given or found.
        name: Key in the list; for separation the path relative to the folder in which it was found.
        size: In bytes.
        changed_ns: Time of the last change.
    """

    path: str
    name: str
    size: int
    changed_ns: int

    @classmethod
    def at(cls, path: str, name: str) -> "InputFile":
        """With size and time from the disk; zeros for a link that leads nowhere."""
        try:
            stat = Path(path).stat()
        except OSError:
            return cls(path, name, 0, 0)
        return cls(path, name, stat.st_size, stat.st_mtime_ns)

    @property
    def stamp(self) -> tuple[int, int]:
        return self.size, self.changed_ns

    def output_name(self, suffix: str) -> Path:
        """Relative path of an output, whose name is this file's without extension and the suffix."""
        return Path(self.name).with_name(Path(self.name).stem + suffix)


@dataclass(frozen=True)
class Entry:
    """A line of the list.

    Attributes:
        file: The file as it was.
        problem: What was wrong with it.
        more: What else the command notes; plain values.
    """

    file: InputFile
    problem: FileProblem | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def is_skipped(self) -> bool:
        return self.problem is not None and self.problem.action == "skipped"

    def line(self) -> str:
        return json.dumps(asdict(self.file) | {"problem": self.problem} | self.more) + "\n"


def read_list(path: Path) -> tuple[dict[str, Any], dict[str, Entry], bool]:
    """A list: settings with their version, entries by names, and whether its last line was cut off by a kill.

    Raises:
        UsageError: If it is damaged.
    """
    entries: dict[str, Entry] = {}
    try:
        # A line without its end does not count.
        *lines, cut_off = path.read_text(encoding="utf-8").split("\n")
        about, *values = map(json.loads, lines)
        settings = {"version": about["version"]} | about["settings"]
        for more in values:
            file = InputFile(**{name.name: more.pop(name.name) for name in fields(InputFile)})
            problem = more.pop("problem")
            entries[file.name] = Entry(file, None if problem is None else FileProblem(*problem), more)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged. Choose another output, or remove {path.parent}.") from error
    return settings, entries, bool(cut_off)


def entries_of(folder: Path) -> list[Path]:
    """What is in a folder; nothing if there is none."""
    return list(folder.iterdir()) if folder.exists() else []


class FinishedFiles:
    """The list of finished files beside their outputs.

    Args:
        path: The list; its folder is made if it does not exist.
        about: Plain values for the first line; ``settings`` among them decide the outputs.

    Raises:
        UsageError: If another process writes into the folder, or it holds something else, outputs made with other
            settings, or a damaged list.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.folder = path.parent
        self.entries: dict[str, Entry] = {}
        # A kill at the very beginning may have left the list itself by halves.
        ours = (entry.suffix == ".partial" or entry.name == LOCK for entry in entries_of(self.folder))
        if not path.is_file() and not all(ours):
            raise UsageError(
                f"{self.folder} holds something else than the work of an earlier run. Choose another output, or move "
                "it out of the way."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = lock_folder(self.folder, "Wait for it, or choose another output.")
        if path.is_file():
            self._resume(about["settings"])
            return
        self._write(json.dumps({"version": VERSION} | about) + "\n")

    def _resume(self, settings: dict[str, Any]) -> None:
        before, self.entries, is_cut_off = read_list(self.path)
        now = {"version": VERSION} | settings
        different = [
            f"{name} was {before.get(name)} and is now {now.get(name)}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
        if different:
            raise UsageError(
                f"{self.folder} holds the work of an earlier run, of which {'; '.join(different)}. Give what was given "
                "then, choose another output, or remove the folder."
            )
        if is_cut_off:
            self._write(self.path.read_text(encoding="utf-8").rpartition("\n")[0] + "\n")

    def _write(self, text: str) -> None:
        write_whole(self.path, lambda partial: partial.write_text(text, encoding="utf-8"))

    def add(self, *entries: Entry) -> None:
        """Note files that are finished, or why they cannot be used."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.writelines(entry.line() for entry in entries)
        self.entries |= {entry.file.name: entry for entry in entries}

    def unfinished(self, files: Iterable[InputFile], outputs: Callable[[InputFile], Iterable[Path]]) -> list[InputFile]:
        """The files that are left to do: new or changed ones, and those that are good and lack an output.

        Args:
            files: All that are wanted.
            outputs: Outputs of a file that is in the list, relative to the folder.

        Raises:
            UsageError: If the folder holds the outputs of another file of the same name.
        """
        return [file for file in files if not self._is_finished(file, outputs)]

    def _is_finished(self, file: InputFile, outputs: Callable[[InputFile], Iterable[Path]]) -> bool:
        known = self.entries.get(file.name)
        if known is None:
            return False
        if known.file.stamp != file.stamp:
            if Path(known.file.path).absolute() != Path(file.path).absolute():
                raise UsageError(
                    f"{self.folder} holds the sources of {known.file.path} under the names that those of {file.path} "
                    "would have. Choose another output."
                )
            return False
        if known.file.path != file.path:  # the same file in another place
            self.add(replace(known, file=file))
        return known.is_skipped or all((self.folder / output).is_file() for output in outputs(file))

    def problems(self, files: Iterable[InputFile]) -> list[FileProblem]:
        """What was wrong with the bad ones among finished files."""
        return [problem for file in files if (problem := self.entries[file.name].problem) is not None]
