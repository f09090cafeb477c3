"""What happens to bad audio files: counted, named in a warning, written to a file; never fatal."""

import csv
import warnings
from pathlib import Path

from sslam.audio import FileProblem
from sslam.audio_files import add_bad_files, as_text, in_csv
from sslam.errors import for_terminal


class BadFileLog:
    """Collects file problems: each file once in a CSV file, and few warnings however many there are.

    A warning is given at the 1st, 10th, 100th, ... bad file, and a last one by :meth:`summarise`.

    Args:
        path: CSV file to append to, with columns path, reason, action; None keeps the count only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.problems: dict[str, FileProblem] = {}
        self._listed_before: set[str] = set()
        self._warned = 0
        if path is not None and path.is_file():  # a resumed run goes on in its folder
            with path.open(newline="", encoding="utf-8") as file:
                self._listed_before = {row["path"] for row in csv.DictReader(file)}

    def add(self, problems: list[FileProblem]) -> None:
        """Count, write and perhaps warn; a file that is known already is passed over."""
        new = {problem.path: problem for problem in problems if problem.path not in self.problems}
        if not new:
            return
        self.problems |= new
        if self.path is not None:
            add_bad_files(self.path, [new[path] for path in new if in_csv(as_text(path)) not in self._listed_before])
        if len(self.problems) >= 10 * self._warned:
            self._warn()

    def summarise(self) -> None:
        """Warn about what was found since the last warning."""
        if len(self.problems) > self._warned:
            self._warn()

    def _warn(self) -> None:
        self._warned = len(self.problems)
        first = list(self.problems.values())[:3]
        names = "; ".join(f"'{problem.path}' ({problem.action}: {problem.reason})" for problem in first)
        more = f"; and {self._warned - len(first)} more" if self._warned > len(first) else ""
        skipped = sum(problem.action == "skipped" for problem in self.problems.values())
        where = f" All of them are listed in '{self.path}'." if self.path is not None else ""
        counts = f"{skipped} skipped, {self._warned - skipped} repaired"
        message = f"Bad audio files so far: {self._warned} ({counts}): {names}{more}.{where}"
        warnings.warn(for_terminal(message), stacklevel=4)
