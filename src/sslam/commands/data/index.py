"""``sslam data index``: the list of a data set, or the index of tar shards."""

import argparse
import csv
import sys
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslam.commands.command import (
    CommandParser,
)
from sslam.commands.data.options import add_num_workers
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError

if TYPE_CHECKING:
    pass
from sslam.commands.data.chunks import in_chunks, journal_beside

NAME_COLUMNS = ("file", "filename", "file_name", "slice_file_name", "fname", "path")


def index_parser() -> argparse.ArgumentParser:
    """The options of ``sslam data index``."""
    parser = CommandParser(
        "data index",
        description="Lists the audio of a folder, or of an official CSV file, in a TSV manifest as fairseq has it, "
        "with the lengths that the files' headers state; --data.root of the data modules takes it. Of a folder of tar "
        "shards it makes the index by which their clips are read. After an interruption the same command goes on.",
        epilog="example: sslam data index recordings --output recordings.tsv",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of audio; CSV file, AudioSet's segments or with a column named one of "
        f"{', '.join(NAME_COLUMNS)}; or folder of tar shards",
    )
    parser.add_argument("--audio", metavar="FOLDER", help="where the files of a CSV file are, if not beside it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the manifest; not for tar shards")
    add_num_workers(parser, "threads")
    return parser


def index(options: argparse.Namespace) -> int:
    """Write the manifest, or the index of shards.

    Raises:
        UsageError: If there is nothing to list.
    """
    from sslam.atomic_write import write_whole
    from sslam.audio_files import audio_files_below, stated_size
    from sslam.packing import scan_shards, write_index

    source = Path(options.source)
    if source.is_dir() and options.output is None and any(source.glob("*.tar")):
        num_clips = write_index(source, scan_shards(source))
        sys.stdout.write(f"{num_clips} clips in the shards of {source}\n")
        return DONE
    if options.output is None:
        raise UsageError(f"--output is needed: {source} holds no tar shards. Give the name of the manifest.")
    if source.is_file():
        root = Path(options.audio or source.parent)
        names, num_missing = _listed(source, root)
    elif source.is_dir():
        root, names, num_missing = source, sorted(audio_files_below(source)), 0
    else:
        raise UsageError(f"There is no file or folder {source}. Give audio that is there.")
    if not names:
        raise UsageError(f"No audio of {source} below {root}. Give the right folder (--audio of a CSV file).")
    prefix = f"{root}/"

    def lengths(rows: range, pool: Executor) -> dict[str, Any]:
        sizes = pool.map(stated_size, [prefix + names[row] for row in rows])
        return {"lengths": [size.num_samples for size in sizes]}

    output: Path = options.output
    journal = journal_beside(output, "index", root, names)
    lines, num_unreadable = [str(root.resolve())], 0
    for rows, result in in_chunks("index", root, names, journal, options.num_workers, lengths):
        for row, length in zip(rows, result["lengths"], strict=True):
            if not length or not _is_plain(names[row]):
                num_unreadable += 1
            else:
                lines.append(f"{names[row]}\t{length}")
    if len(lines) == 1:
        raise UsageError(f"None of the {len(names)} files of {source} can be read. sslam data verify tells why.")
    write_whole(output, lambda partial: partial.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    journal.path.unlink()
    sys.stdout.write(
        f"{len(lines) - 1} clips: {output}\n{num_missing} listed files are missing, {num_unreadable} left out, which "
        "have no readable header or a name that a TSV file cannot hold\n"
    )
    return DONE


def _is_plain(name: str) -> bool:
    """Whether a name can stand in a TSV file in UTF-8."""
    return not set(name) & set("\t\n\r") and name.isprintable()


def _listed(path: Path, root: Path) -> tuple[list[str], int]:
    """Names of a CSV file's clips that are there, and how many are not."""
    from data_modules.audioset import find_audio
    from data_modules.listing import find_listed
    from data_modules.metadata import read_text

    lines = [line for line in read_text(path, "List").splitlines() if line.strip()]
    rows = list(csv.reader((line for line in lines if not line.startswith("#")), skipinitialspace=True))
    if not rows:
        raise UsageError(f"{path} lists nothing. Give the complete file.")
    if lines[0].startswith("#"):  # AudioSet: id, start, end, labels
        found = find_audio(root, [row[0] for row in rows])
        return sorted(found.values()), len({row[0] for row in rows}) - len(found)
    header = [name.strip() for name in rows[0]]
    column = next((header.index(name) for name in NAME_COLUMNS if name in header), None)
    if column is None:
        raise UsageError(f"{path} has none of the columns {', '.join(NAME_COLUMNS)} in its first line. Name one so.")
    listed = list(dict.fromkeys(row[column].strip() for row in rows[1:] if len(row) > column))
    paths, is_found = find_listed(root, listed)
    start = len(f"{root}/")
    return sorted(name[start:] for name, found in zip(paths, is_found, strict=True) if found), int((~is_found).sum())
