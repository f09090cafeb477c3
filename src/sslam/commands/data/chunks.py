"""What ``sslam data index``, ``verify`` and ``pack`` share: a list that is worked through in chunks."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslam.commands.command import (
    say_what_is_finished,
)
from sslam.errors import UsageError

if TYPE_CHECKING:
    from sslam.journal import Journal

CLIPS_PER_CHUNK = 1000  # between two lines of the journal
JOURNAL_ENDING = ".unfinished"

SOURCE: dict[str, Any] = {
    "metavar": "SOURCE",
    "help": "folder of audio, TSV manifest of sslam data index, or packed folder",
}


def journal_beside(output: Path, command: str, root: Path, names: Sequence[str]) -> "Journal":
    """The journal of a command, beside its output.

    Raises:
        UsageError: If there is no folder for it.
    """
    from sslam.journal import Journal, names_digest

    if not output.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {output.parent}. Make it, or choose another --output.")
    settings = {"command": command, "root": str(root.resolve()), "names": names_digest(names)}
    return Journal(output.with_name(output.name + JOURNAL_ENDING), settings)


def in_chunks(
    command: str,
    root: Path,
    names: Sequence[str],
    journal: "Journal",
    num_workers: int,
    work: Callable[[range, Executor], dict[str, Any]],
    size: int = CLIPS_PER_CHUNK,
    is_there: Callable[[int], bool] = lambda _: True,
) -> Iterator[tuple[range, dict[str, Any]]]:
    """Rows and result of every chunk of the list in order; those of the journal are not made again."""
    from tqdm import tqdm

    from sslam.journal import stamp_of

    chunks = [range(start, min(len(names), start + size)) for start in range(0, len(names), size)]
    stamps = [stamp_of(f"{root}/{names[row]}" for row in rows) for rows in chunks]
    known = [journal.of(chunk, stamps[chunk]) if is_there(chunk) else None for chunk in range(len(chunks))]
    num_known = sum(len(rows) for rows, result in zip(chunks, known, strict=True) if result is not None)
    say_what_is_finished(f"data {command}", num_known, len(names), journal.path.parent)
    with (
        ThreadPoolExecutor(num_workers) as pool,
        tqdm(None, command, len(names), initial=num_known, unit=" clips", disable=None, leave=False) as bar,
    ):
        try:
            for chunk, rows in enumerate(chunks):
                result = known[chunk]
                if result is None:
                    result = journal.add(chunk, stamps[chunk], work(rows, pool))
                    bar.update(len(rows))
                yield rows, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
