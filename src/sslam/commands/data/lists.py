"""``sslam data index | verify | pack``: the list of a data set, what is wrong with its files, and tar shards of it."""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslam.commands.command import (
    CommandParser,
    close_file_command,
    positive_integer,
    say_what_is_finished,
)
from sslam.commands.data.options import add_num_workers
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError

if TYPE_CHECKING:
    from sslam.audio import FileProblem
    from sslam.journal import Journal

CLIPS_PER_CHUNK = 1000  # between two lines of the journal
JOURNAL_ENDING = ".unfinished"
PACKING_JOURNAL = "packing.jsonl"
NAME_COLUMNS = ("file", "filename", "file_name", "slice_file_name", "fname", "path")
MAX_NAMED = 5  # bad files of a kind on the terminal

SOURCE: dict[str, Any] = {
    "metavar": "SOURCE",
    "help": "folder of audio, TSV manifest of sslam data index, or packed folder",
}


# ---- index ----------------------------------------------------------------------------------------------------------


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
    journal = _journal(output, "index", root, names)
    lines, num_unreadable = [str(root.resolve())], 0
    for rows, result in _chunks("index", root, names, journal, options.num_workers, lengths):
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


# ---- verify ---------------------------------------------------------------------------------------------------------


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
    journal = _journal(output, "verify", root, names)
    bad: list[FileProblem] = []
    for _, result in _chunks("verify", root, names, journal, options.num_workers, problems):
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


# ---- pack -----------------------------------------------------------------------------------------------------------


def pack_parser() -> argparse.ArgumentParser:
    """The options of ``sslam data pack``."""
    parser = CommandParser(
        "data pack",
        description="Packs audio, as 16-kHz mono FLAC of 16 bits, into tar shards that WebDataset reads, with an index "
        "by which every clip is read at random: the folder of the shards stands for that of the audio, as --data.root "
        "of a data module and in every command. Bad files are left out and listed in bad_files.csv. After an "
        "interruption the same command goes on, and the shards are the same to the byte.",
        epilog="example: sslam data pack recordings --output shards",
    )
    parser.add_argument("source", **SOURCE)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="new, empty, or of an earlier run to go on with"
    )
    parser.add_argument(
        "--clips_per_shard", type=positive_integer, default=1000, help="200 MB of 10-s clips (default: %(default)s)"
    )
    add_num_workers(parser, "threads")
    return parser


def pack(options: argparse.Namespace) -> int:
    """Write the shards that are not there yet, and then the index.

    Raises:
        UsageError: If there is nothing to pack, or the output holds something else.
    """
    from data_modules.folder import read_listing
    from sslam.audio import SAMPLE_RATE, FileProblem
    from sslam.finished_files import entries_of
    from sslam.folder_lock import LOCK, lock_folder
    from sslam.journal import Journal, names_digest
    from sslam.packed_audio import safe_name
    from sslam.packing import Packing, shard_name, write_index, write_shard

    output: Path = options.output
    root, names = read_listing(options.source)
    names = [safe_name(name, options.source) for name in names]
    if output.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"--output {output} is in '{root}', whose audio is packed. Choose another one.")
    packing = Packing(str(root), names, options.clips_per_shard)
    is_ours = (output / PACKING_JOURNAL).is_file()
    if not is_ours and any(entry.name != LOCK and entry.suffix != ".partial" for entry in entries_of(output)):
        raise UsageError(f"{output} holds other things than shards to go on with. Choose another --output.")
    output.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(output, "Wait for it, or choose another --output.")
    settings = {"names": names_digest(names), "clips_per_shard": packing.clips_per_shard}
    remedy = "Pack what was packed then, choose another --output, or remove the folder."
    journal = Journal(output / PACKING_JOURNAL, settings, remedy)
    for partial in output.glob(".*.partial"):
        partial.unlink(missing_ok=True)

    def is_there(shard: int) -> bool:
        return (output / shard_name(shard)).is_file()

    def write(rows: range, pool: Executor) -> dict[str, Any]:
        return write_shard(output, packing, rows.start // packing.clips_per_shard, pool)

    shards, problems, num_samples = [], [], 0
    work = _chunks("pack", root, names, journal, options.num_workers, write, packing.clips_per_shard, is_there)
    for shard, (_, result) in enumerate(work):
        shards.append((shard_name(shard), result))
        problems += [FileProblem(*problem) for problem in result["problems"]]
        num_samples += result["samples"]
    write_index(output, shards)
    what = f"packed into {len(shards)} shards, {num_samples / SAMPLE_RATE / 3600:.2f} h: {output}"
    code = close_file_command(len(names), problems, output / "bad_files.csv", what)
    lock.release()
    return code


# ---- what they share ------------------------------------------------------------------------------------------------


def _journal(output: Path, command: str, root: Path, names: Sequence[str]) -> "Journal":
    from sslam.journal import Journal, names_digest

    if not output.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {output.parent}. Make it, or choose another --output.")
    settings = {"command": command, "root": str(root.resolve()), "names": names_digest(names)}
    return Journal(output.with_name(output.name + JOURNAL_ENDING), settings)


def _chunks(
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
