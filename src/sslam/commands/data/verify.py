"""``sslam data verify``: what is wrong with the files of a data set."""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslam.commands.command import (
    CommandParser,
)
from sslam.commands.data.options import add_num_workers
from sslam.commands.exit_codes import DONE

if TYPE_CHECKING:
    from sslam.audio import FileProblem
from sslam.commands.data.chunks import SOURCE, in_chunks, journal_beside

MAX_NAMED = 5  # bad files of a kind on the terminal


def verify_parser() -> argparse.ArgumentParser:
    """The options of ``sslam data verify``."""
    parser = CommandParser(
        "data verify",
        description="Decodes every file once, as training does, and lists all that are bad or damaged in a CSV file of "
        "path, kind, reason and action (skipped, or repaired). After an interruption the same command goes on.",
        epilog="example: sslam data verify recordings --output bad_files.csv",
    )
    parser.add_argument("source", **SOURCE)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the CSV file")
    add_num_workers(parser, "threads")
    return parser


KINDS = (
    ("no such file", "missing"),
    ("no regular file", "no regular file"),
    ("empty (0 bytes)", "empty"),
    ("empty (a header", "no samples"),
    ("need torchcodec", "needs FFmpeg"),
    ("its header gives a sample rate", "impossible sample rate"),
    ("too short", "too short"),
    ("truncated", "truncated"),
    ("damaged", "damaged"),
    ("silent", "silent"),
    ("NaN or infinite", "not finite"),
    ("its samples reach", "too loud"),
    ("clipped", "clipped"),
)
"""Words of a reason, and the kind of a file with them."""


def kind_of(problem: "FileProblem") -> str:
    """In a word or two what is wrong with a file."""
    return next((kind for words, kind in KINDS if words in problem.reason), "unreadable")


def verify(options: argparse.Namespace) -> int:
    """Decode all files, and list the bad ones.

    Raises:
        UsageError: If there is nothing to verify.
    """
    from data_modules.folder import read_listing
    from sslam.atomic_write import write_whole
    from sslam.audio import AudioFileError, FileProblem, decode_audio
    from sslam.audio_files import in_csv

    root, names = read_listing(options.source)
    prefix = f"{root}/"

    def problem_of(path: str) -> "FileProblem | None":
        try:
            return decode_audio(path).problem
        except AudioFileError as error:
            return error.problem

    def problems(rows: range, pool: Executor) -> dict[str, Any]:
        found = pool.map(problem_of, [prefix + names[row] for row in rows])
        return {"problems": [problem for problem in found if problem]}

    output: Path = options.output
    journal = journal_beside(output, "verify", root, names)
    bad: list[FileProblem] = []
    for _, result in in_chunks("verify", root, names, journal, options.num_workers, problems):
        bad += [FileProblem(*problem) for problem in result["problems"]]

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "kind", "reason", "action"))
            for problem in bad:
                writer.writerow([in_csv(text) for text in (problem.path, kind_of(problem), *problem[1:])])

    write_whole(output, write)
    journal.path.unlink()
    _summarise(len(names), bad, output)
    return DONE


def _summarise(num_files: int, bad: Sequence["FileProblem"], listed: Path) -> None:
    skipped = sum(problem.action == "skipped" for problem in bad)
    sys.stdout.write(
        f"{num_files} files: {num_files - len(bad)} good, {skipped} bad and skipped, {len(bad) - skipped} damaged and "
        "repaired\n"
    )
    for kind, count in Counter(map(kind_of, bad)).most_common():
        of_kind = [problem.path for problem in bad if kind_of(problem) == kind]
        more = ", ..." if count > MAX_NAMED else ""
        sys.stdout.write(f"  {count:7} {kind}: {', '.join(map(ascii, of_kind[:MAX_NAMED]))}{more}\n")
    if bad:
        sys.stdout.write(f"All of them, with reasons: {listed}\n")
