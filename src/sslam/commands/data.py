"""``sslam data``: what recordings are like (``stats``), scenes of them (``render``), AudioSet's labels (``labels``).

Lists, checks and shards of them (``index``, ``verify``, ``pack``) are in :mod:`~sslam.commands.data_lists`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sslam.commands.command import (
    AUDIO_PATHS,
    NUM_WORKERS,
    WORK_IS_KEPT,
    CommandParser,
    is_users_mistake,
    main_of,
    positive_integer,
    say_what_is_finished,
)
from sslam.commands.data_lists import index, index_parser, pack, pack_parser, verify, verify_parser
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError

if TYPE_CHECKING:
    from data_modules import RecordedSoundscapesDataModule

MAX_NAMED = 10  # bad files on the terminal
# Options of `render` that do not change what is rendered, and those that the data module does not have.
ELSEWHERE = ("root", "audio", "output", "num_workers")
NOT_THE_DATA_MODULES = ("output", "num_workers", "silence", "stems")


def build_parser() -> argparse.ArgumentParser:
    """The sub-commands of ``sslam data``."""
    parser = CommandParser(
        "data",
        description="index SOURCE --output FILE: a manifest of a folder or a CSV file. verify SOURCE --output FILE: "
        "all files that are bad. pack SOURCE --output FOLDER: tar shards to train from. stats FOLDER: mean and "
        "standard deviation of the log-mels of recordings, for the front end. render FOLDER --output OUTPUT: scenes "
        "made of recordings of classes, as files. labels FOLDER: how many labels the clips of AudioSet have.",
        epilog="sslam data stats --help and so on tell their options.",
    )
    parser.add_argument("subcommand", choices=("index", "verify", "pack", "stats", "render", "labels"))
    return parser


def main(args: Sequence[str]) -> int:
    """Run the command, as :func:`~sslam.commands.command.main_of` makes it, of the sub-command that comes first."""
    mains = {
        "index": main_of(index_parser, index, WORK_IS_KEPT),
        "verify": main_of(verify_parser, verify, WORK_IS_KEPT),
        "pack": main_of(pack_parser, pack, WORK_IS_KEPT),
        "stats": main_of(stats_parser, stats),
        "render": main_of(render_parser, render, WORK_IS_KEPT),
        "labels": main_of(labels_parser, labels),
    }
    return mains[build_parser().parse_args(args[:1]).subcommand](args[1:])


# ---- stats ----------------------------------------------------------------------------------------------------------


def stats_parser() -> argparse.ArgumentParser:
    """The options of ``sslam data stats``."""
    parser = CommandParser(
        "data stats",
        description="Goes through audio files once and prints mean and standard deviation of their log-mels, over all "
        "frames and mel bins, with the lines of YAML that give them to the front end. Bad files are named.",
        epilog="example: sslam data stats recordings",
    )
    parser.add_argument("paths", **AUDIO_PATHS)
    parser.add_argument(
        "--frontend",
        choices=("KaldiFbank", "LogMel"),
        default="KaldiFbank",
        help="of SSLAM (128 mel bins) or of the contrastive method (64) (default: %(default)s)",
    )
    parser.add_argument(
        "--num_workers",
        type=positive_integer,
        default=NUM_WORKERS,
        help="threads that read files (default: %(default)s)",
    )
    return parser


def stats(options: argparse.Namespace) -> int:
    """Print the statistics of files and folders.

    Raises:
        UsageError: If there is no file that can be used.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from tqdm import tqdm

    from sslam import frontends
    from sslam.audio import AudioFileError, FileProblem, decode_audio
    from sslam.audio_files import find_audio_files
    from sslam.frontends.statistics import FeatureStatistics, recording_statistics

    files = list(find_audio_files(options.paths))
    frontend = getattr(frontends, options.frontend)()

    def of_file(path: str) -> tuple[FeatureStatistics, int, FileProblem | None]:
        try:
            waveform, problem = decode_audio(path, frontend.sample_rate)
        except AudioFileError as error:
            return FeatureStatistics(), 0, error.problem
        return recording_statistics(frontend, torch.from_numpy(waveform)), len(waveform), problem

    statistics, num_samples, problems = FeatureStatistics(), 0, []
    with ThreadPoolExecutor(options.num_workers) as pool:
        try:
            for found, samples, problem in tqdm(
                pool.map(of_file, files), "statistics", len(files), unit=" files", disable=None, leave=False
            ):
                statistics += found
                num_samples += samples
                problems += [problem] if problem else []
        finally:
            pool.shutdown(cancel_futures=True)
    for problem in problems[:MAX_NAMED]:
        sys.stderr.write(f"sslam data stats: {problem.path} {problem.action}: {problem.reason}\n")
    if len(problems) > MAX_NAMED:
        sys.stderr.write(f"sslam data stats: and {len(problems) - MAX_NAMED} more\n")
    skipped = sum(problem.action == "skipped" for problem in problems)
    if not statistics.num_values:
        raise UsageError(
            f"None of the {len(files)} files can be used. Give readable wav, flac, mp3, ogg or opus files."
        )
    sys.stdout.write(
        f"{len(files) - skipped} files, {num_samples / frontend.sample_rate:.0f} s; {skipped} bad files skipped, "
        f"{len(problems) - skipped} repaired\n"
        f"log-mels of {options.frontend}: mean {statistics.mean:.3f}, standard deviation {statistics.std:.3f}\n\n"
        "model:\n  init_args:\n    frontend:\n      init_args:\n"
        f"        mean: {statistics.mean:.3f}\n        std: {statistics.std:.3f}\n"
    )
    return DONE


# ---- render ---------------------------------------------------------------------------------------------------------


def render_parser() -> argparse.ArgumentParser:
    """The options of ``sslam data render``."""
    parser = CommandParser(
        "data render",
        description="Renders polyphonic scenes of recordings to files: OUTPUT/train, validation and test have FLAC "
        "files (16 kHz, 24 bits) with a JAMS file each, in Scaper's namespace, and OUTPUT/metadata.csv lists all "
        "events. No recording is heard in two of the three. The scenes are those of "
        "data_modules.RecordedSoundscapesDataModule with the same options; data_modules.RenderedSoundscapesDataModule "
        "reads them back. After an interruption the same command goes on.",
        epilog="example: sslam data render recordings --output scenes --stems",
    )
    parser.add_argument(
        "root",
        metavar="FOLDER",
        help="folder of class folders, or CSV file (file,label[,fold][,group]) with one class for each recording",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUTPUT", help="new, empty, or of an earlier run to go on with"
    )
    parser.add_argument("--audio", metavar="FOLDER", help="where the files of a CSV file are, if not beside it")
    for split, number in (("train", 1000), ("val", 200), ("test", 200)):
        parser.add_argument(f"--num_{split}_scenes", type=int, default=number, help="(default: %(default)s)")
    parser.add_argument("--clip_seconds", type=float, default=10.0, help="length of a scene (default: %(default)s)")
    for name, kind, default, text in (
        ("events_per_scene", int, (1, 6), "events in a scene"),
        ("polyphony", int, (1, 4), "largest number of events that sound at once"),
        ("event_seconds", float, (0.5, 4.0), "length of an event"),
        ("snr_db", float, (5.0, 25.0), "level of an event over the background in dB"),
    ):
        parser.add_argument(
            f"--{name}",
            type=kind,
            nargs=2,
            default=default,
            metavar=("LEAST", "MOST"),
            help=f"{text} (default: {default[0]} {default[1]})",
        )
    behind = parser.add_mutually_exclusive_group()
    behind.add_argument("--background_root", metavar="FOLDER", help="background recordings (default: coloured noise)")
    behind.add_argument("--silence", action="store_true", help="no background")
    parser.add_argument("--fold", type=int, default=1, help="its recordings are for test scenes (default: %(default)s)")
    parser.add_argument("--num_folds", type=int, default=5, help="where FOLDER gives none (default: %(default)s)")
    parser.add_argument("--fold_seed", type=int, default=0, help="of these folds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: %(default)s)")
    parser.add_argument("--stems", action="store_true", help="write the background and each event, too")
    parser.add_argument(
        "--num_workers", type=positive_integer, default=NUM_WORKERS, help="processes (default: %(default)s)"
    )
    return parser


def render(options: argparse.Namespace) -> int:
    """Write the scenes that are not there yet, and then the table of all events.

    Raises:
        UsageError: If the output holds other things, or lies among the recordings.
    """
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    from data_modules.scene_files import SceneWriter, begin, write_metadata
    from sslam.audio_files import add_bad_files, as_text

    output: Path = options.output
    for folder in (options.root, options.audio, options.background_root):
        if folder is not None and output.resolve().is_relative_to(Path(folder).resolve()):
            raise UsageError(
                f"--output {output} is in '{folder}', so that scenes would be taken for recordings. Choose another one."
            )
    data = scenes_of(options)
    class_names = [as_text(name) for name in data.class_names]
    given = {name: value for name, value in vars(options).items() if name not in ELSEWHERE}
    begin(output, {"class_names": class_names, "recordings": data.recordings_digest, **given})
    bad_files = output / "bad_files.csv"
    bad_files.unlink(missing_ok=True)
    add_bad_files(bad_files, data.problems)

    writer = SceneWriter(output, data.sets(), class_names, options.stems, data.audio_folder)
    say_what_is_finished("data render", len(writer.files) - len(writer), len(writer.files), output)
    num_workers = 0 if options.num_workers == 1 else options.num_workers
    loader = DataLoader(writer, batch_size=None, num_workers=num_workers)
    for failure in tqdm(loader, "scenes", unit=" files", disable=None, leave=False):
        if failure is not None:
            raise failure
    write_metadata(output, writer.files)
    sys.stdout.write(f"{len(writer.files)} files rendered, scenes of {data.recordings.title}: {output}\n")
    if data.problems:
        sys.stdout.write(f"{len(data.problems)} bad recordings: {bad_files}\n")
    return DONE


def scenes_of(options: argparse.Namespace) -> "RecordedSoundscapesDataModule":
    """The data module that has the scenes, all sets made.

    Raises:
        UsageError: If there cannot be such scenes.
    """
    from data_modules import RecordedSoundscapesDataModule, Silence

    given = {name: value for name, value in vars(options).items() if name not in NOT_THE_DATA_MODULES}
    try:
        data = RecordedSoundscapesDataModule(background=Silence() if options.silence else None, **given)
        data.make_sets("fit")  # which makes all of them
    except ValueError as error:
        if not is_users_mistake(error):
            raise
        raise UsageError(str(error).replace("--data.", "--")) from error  # it speaks of options of sslam fit
    return data


# ---- labels ---------------------------------------------------------------------------------------------------------


def labels_parser() -> argparse.ArgumentParser:
    """The options of ``sslam data labels``."""
    parser = CommandParser(
        "data labels",
        description="Prints how many clips of AudioSet's lists have one label, two, three and so on; with the ontology "
        "also at each of its levels, where a label stands for the class above it. Needs no audio.",
        epilog="example: sslam data labels data/audioset --ontology ontology.json",
    )
    parser.add_argument("metadata", metavar="FOLDER", help="folder of class_labels_indices.csv and the segment lists")
    parser.add_argument("--ontology", type=Path, metavar="FILE", help="the official ontology.json")
    parser.add_argument(
        "--subset",
        choices=("balanced", "full", "evaluation"),
        default="full",
        help="the balanced training clips, all training clips, or the evaluation clips (default: %(default)s)",
    )
    return parser


def labels(options: argparse.Namespace) -> int:
    """Print the table.

    Raises:
        UsageError: If a file is missing or wrong.
    """
    from data_modules.audioset_labels import labels_per_clip, read_labels, read_ontology

    try:
        ids, labels_NC = read_labels(options.metadata, options.subset)
        ontology = None if options.ontology is None else read_ontology(options.ontology, ids)
    except ValueError as error:
        if not is_users_mistake(error):
            raise
        raise UsageError(str(error).replace("--data.metadata", "FOLDER")) from error
    sys.stdout.write(labels_per_clip(labels_NC, ids, ontology))
    return DONE
