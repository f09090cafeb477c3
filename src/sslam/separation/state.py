"""What ``sslam separate`` has finished, kept in the output folder.

``separation.jsonl`` has the settings in its first line, and then a line for each file that is finished or bad. A line
is written when the file's sources are all there under their names, so that a kill leaves nothing by halves.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sslam.audio import FileProblem
from sslam.errors import UsageError

STATE = "separation.jsonl"
VERSION = 1


@dataclass(frozen=True)
class InputFile:
    """A file that is to be separated.

    Attributes:
        path: As it was given or found.
        name: Relative to the folder it was found in; decides the names of the outputs.
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


Finished = dict[str, tuple[InputFile, FileProblem | None]]
"""By name, files that are finished, and what was wrong with them."""


def read_state(path: Path) -> tuple[dict[str, Any], Finished, bool]:
    """The list of a folder: settings with their version, files, and whether its last line was cut off by a kill.

    Raises:
        UsageError: If it is damaged.
    """
    finished: Finished = {}
    try:
        # A line without its end does not count.
        *lines, cut_off = path.read_text(encoding="utf-8").split("\n")
        about, *entries = map(json.loads, lines)
        settings = {"version": about["version"]} | about["settings"]
        for entry in entries:
            problem = entry.pop("problem")
            file = InputFile(**entry)
            finished[file.name] = file, None if problem is None else FileProblem(*problem)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged. Give another output folder, or remove this one.") from error
    return settings, finished, bool(cut_off)


class State:
    """The output folder with its list of finished files.

    Args:
        folder: Made if it does not exist.
        about: Plain values for the first line; ``settings`` among them decide the outputs.

    Raises:
        UsageError: If the folder holds something else, sources made with other settings, or a damaged list.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.path = folder / STATE
        self.finished: Finished = {}
        if self.path.is_file():
            self._resume(about["settings"])
            return
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(
                f"{folder} holds something else than the sources of an earlier run. Give a new or an empty folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._write([json.dumps({"version": VERSION} | about)])

    def _resume(self, settings: dict[str, Any]) -> None:
        before, self.finished, cut_off = read_state(self.path)
        now = {"version": VERSION} | settings
        different = [
            f"{name} was {before.get(name)} and is now {now.get(name)}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
        if different:
            raise UsageError(
                f"{self.folder} holds sources of an earlier run, of which {'; '.join(different)}. Give what was given "
                "then, or another output folder."
            )
        if cut_off:
            self._write(self.path.read_text(encoding="utf-8").split("\n")[:-1])

    def _write(self, lines: Iterable[str]) -> None:
        partial = self.path.with_name(STATE + ".partial")
        partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        partial.replace(self.path)

    def problem_of(self, file: InputFile) -> FileProblem | None:
        """What was wrong with a finished file."""
        return self.finished[file.name][1]

    def is_finished(self, file: InputFile, outputs: Iterable[Path]) -> bool:
        """Whether a file need not be separated again: it is the same, and bad, or its outputs are there.

        Raises:
            UsageError: If the folder holds the sources of another file of this name.
        """
        if file.name not in self.finished:
            return False
        known, problem = self.finished[file.name]
        if known.stamp != file.stamp:
            if Path(known.path).absolute() != Path(file.path).absolute():
                raise UsageError(
                    f"{self.folder} holds the sources of {known.path} under the names that those of {file.path} would "
                    "have. Give another output folder."
                )
            return False
        is_skipped = problem is not None and problem.action == "skipped"
        return is_skipped or all((self.folder / output).is_file() for output in outputs)

    def unfinished(self, files: Sequence[InputFile], outputs: Callable[[InputFile], Iterable[Path]]) -> list[InputFile]:
        """The files that are left to do; see :meth:`is_finished`."""
        return [file for file in files if not self.is_finished(file, outputs(file))]

    def forget_moved(self, files: Iterable[InputFile]) -> None:
        """Files that are the same in another place count as unfinished, so that their lines are written anew."""
        for file in files:
            known, _ = self.finished.get(file.name, (file, None))
            if known.stamp == file.stamp and known.path != file.path:
                self.finished.pop(file.name)

    def add(self, file: InputFile, problem: FileProblem | None) -> None:
        """Note that a file is finished, or why it cannot be used."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(file) | {"problem": problem}) + "\n")
        self.finished[file.name] = file, problem
