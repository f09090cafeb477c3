"""``sslam data pack``: tar shards of a data set."""

import argparse
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslam.commands.command import (
    CommandParser,
    close_file_command,
    positive_integer,
)
from sslam.commands.data.options import add_num_workers
from sslam.errors import UsageError

if TYPE_CHECKING:
    pass
from sslam.commands.data.chunks import SOURCE, in_chunks

PACKING_JOURNAL = "packing.jsonl"


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
    work = in_chunks("pack", root, names, journal, options.num_workers, write, packing.clips_per_shard, is_there)
    for shard, (_, result) in enumerate(work):
        shards.append((shard_name(shard), result))
        problems += [FileProblem(*problem) for problem in result["problems"]]
        num_samples += result["samples"]
    write_index(output, shards)
    what = f"packed into {len(shards)} shards, {num_samples / SAMPLE_RATE / 3600:.2f} h: {output}"
    code = close_file_command(len(names), problems, output / "bad_files.csv", what)
    lock.release()
    return code
