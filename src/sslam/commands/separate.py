"""``sslam separate``: files or folders in, one wav for each source out."""

import argparse
from pathlib import Path
from typing import Any

import sslam
from sslam.commands.command import (
    AUDIO_PATHS,
    DEVICE,
    USER_CLASSES,
    WEIGHTS_AT,
    WORK_IS_KEPT,
    CommandParser,
    choose_device,
    close_file_command,
    main_of,
    positive_integer,
    say_what_is_finished,
)
from sslam.errors import UsageError

# As in sslam.separation.waveform, whose import takes seconds; a test compares them.
BATCH_SIZE = 8
WINDOW_SECONDS = 30.0


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam separate``."""
    parser = CommandParser(
        "separate",
        description="Separates audio files into sources, which add up to the file at its own rate, length and number "
        "of channels. RECORDINGS/a/b.flac becomes OUTPUT/a/b_source1.wav, b_source2.wav, ... (32-bit float). Silent "
        "files have silent sources; bad files are listed in OUTPUT/bad_files.csv and never stop it. After an "
        "interruption the same command goes on.",
        epilog="example: sslam separate recordings --checkpoint runs/separate/RUN/checkpoints/last.ckpt "
        "--output separated",
    )
    parser.add_argument("paths", **AUDIO_PATHS)
    parser.add_argument("--checkpoint", required=True, help=f"of a run (.ckpt) or of sslam convert: {WEIGHTS_AT}")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, metavar="FOLDER", help="new, empty, or of an earlier run to go on with")
    where.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="instead of wav files: the channels of training clips for the separation-contrastive method, mono at 16 "
        "kHz, in FOLDER/NAME OF THE CHECKPOINT (--model.processors.cache FOLDER)",
    )
    parser.add_argument(
        "--pictures", action="store_true", help="spectrograms of each file and its sources, as PNG; with --output"
    )
    parser.add_argument(
        "--window_seconds",
        type=float,
        metavar="S",
        help="longer files are separated in overlapping windows of this length, which bounds the memory (default: "
        f"{WINDOW_SECONDS:g}); with --output",
    )
    parser.add_argument(
        "--batch_size",
        type=positive_integer,
        default=BATCH_SIZE,
        metavar="N",
        help="channels of 10 s at once, of files of equal length; of longer ones fewer (default: %(default)s)",
    )
    parser.add_argument("--user_classes", **USER_CLASSES)
    parser.add_argument("--device", **DEVICE)
    return parser


def separate(options: argparse.Namespace) -> int:
    """Write the sources of files, or keep the channels of training clips; bad files are listed."""
    is_cache = options.output is None
    if is_cache and (options.pictures or options.window_seconds is not None):
        raise UsageError(
            "--pictures and --window_seconds go with --output; for --cache clips are separated as a whole."
        )
    from sslam.audio import SAMPLE_RATE
    from sslam.checkpoints import load_separator
    from sslam.checkpoints.loading import file_sha256
    from sslam.checkpoints.location import resolve
    from sslam.finished_files import FinishedFiles
    from sslam.separation.cache import LIST, cache_settings, write_cache
    from sslam.separation.separate_files import Wanted, find_inputs, separate_files

    window_seconds = WINDOW_SECONDS if options.window_seconds is None else options.window_seconds
    wanted = Wanted(window_seconds, options.batch_size, options.pictures)
    # Training finds the clips of a cache from wherever it is started.
    paths = [str(Path(path).absolute()) for path in options.paths] if is_cache else options.paths
    files = find_inputs(paths, options.cache if is_cache else options.output)
    location = resolve(options.checkpoint)
    separator = load_separator(location.address, options.user_classes).to(choose_device(options.device))
    about: dict[str, Any] = {
        "sslam": sslam.__version__,
        "checkpoint": location.address,
        "revision": location.revision,
        "num_sources": separator.num_sources,
        "sample_rate": separator.sample_rate,
    }
    if is_cache:
        if separator.sample_rate != SAMPLE_RATE:
            raise UsageError(
                f"{options.checkpoint} separates at {separator.sample_rate} Hz, and training clips have {SAMPLE_RATE} "
                "Hz. Give the checkpoint of another separator."
            )
        about["settings"] = cache_settings(location.address)
        finished = FinishedFiles(options.cache / location.name / LIST, about)
        left = finished.unfinished(files, lambda file: [file.output_name(".npy")])
    else:
        about["settings"] = {"checkpoint_sha256": file_sha256(location.file), "window_seconds": window_seconds}
        finished = FinishedFiles(options.output / LIST, about)
        left = finished.unfinished(files, lambda file: wanted.outputs(file, separator.num_sources))
    say_what_is_finished("separate", len(files) - len(left), len(files), finished.path)
    if is_cache:
        write_cache(separator, left, finished, options.batch_size)
    else:
        separate_files(separator, left, finished, wanted)
    done = f"separated into {separator.num_sources} sources each: {finished.folder}"
    return close_file_command(len(files), finished.problems(files), finished.folder / "bad_files.csv", done)


main = main_of(build_parser, separate, WORK_IS_KEPT)
