"""``sslam separate``: files or folders in, one wav for each source out."""

import argparse
from collections.abc import Sequence
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
NUM_TAGS = 3


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
    parser.add_argument(
        "--then",
        choices=("tag", "embed"),
        help="what is made of every source: tags, in FOLDER/tags.csv, or an embedding, in FOLDER/embeddings.npz; with "
        "--output",
    )
    parser.add_argument("--tagger", metavar="CHECKPOINT", help=f"fine-tuned checkpoint for --then tag: {WEIGHTS_AT}")
    parser.add_argument("--encoder", metavar="CHECKPOINT", help=f"checkpoint for --then embed: {WEIGHTS_AT}")
    parser.add_argument(
        "--tags", type=positive_integer, metavar="K", help=f"most probable classes of a source (default: {NUM_TAGS})"
    )
    parser.add_argument("--user_classes", **USER_CLASSES)
    parser.add_argument("--device", **DEVICE)
    return parser


def separate(options: argparse.Namespace) -> int:
    """Write the sources of files, or keep the channels of training clips; bad files are listed."""
    is_cache = options.output is None
    check_then(options)
    if is_cache and (options.pictures or options.window_seconds is not None):
        raise UsageError(
            "--pictures and --window_seconds go with --output; for --cache clips are separated as a whole."
        )
    from sslam.audio import SAMPLE_RATE
    from sslam.checkpoints import load_separator, read_checkpoint
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
    if options.then:
        num_classes = read_checkpoint(options.tagger or options.encoder, user_classes=options.user_classes).num_classes
        if options.then == "tag" and (options.tags or NUM_TAGS) > num_classes:
            raise UsageError(
                f"{options.tagger} has {num_classes} classes, fewer than the {options.tags or NUM_TAGS} tags. Give a "
                "fine-tuned checkpoint, or fewer with --tags."
            )
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
    sources = [finished.folder / name for file in files for name in wanted.outputs(file, separator.num_sources)]
    done = f"separated into {separator.num_sources} sources each: {finished.folder}"
    code = close_file_command(len(files), finished.problems(files), finished.folder / "bad_files.csv", done)
    return code if options.then is None else after_separation(options, sources)


def check_then(options: argparse.Namespace) -> None:
    """Refuse options of tags and embeddings that do not go together.

    Raises:
        UsageError: With the remedy.
    """
    needed = {"tag": "tagger", "embed": "encoder"}
    if options.then and options.output is None:
        raise UsageError("--then is of the sources that --output keeps. Leave it out, or give --output.")
    if options.then and getattr(options, needed[options.then]) is None:
        raise UsageError(f"--then {options.then} needs a checkpoint. Give --{needed[options.then]}.")
    for name, then in (("tagger", "tag"), ("encoder", "embed"), ("tags", "tag")):
        if getattr(options, name) is not None and options.then != then:
            raise UsageError(f"--{name} is of --then {then}. Give that, or leave --{name} out.")


def after_separation(options: argparse.Namespace, sources: Sequence[Path]) -> int:
    """Tag or embed the sources, as ``sslam embed`` does it of any files."""
    from sslam.commands import embed

    tags = options.then == "tag"
    output = options.output / ("tags.csv" if tags else "embeddings.npz")
    args = ["--checkpoint", options.tagger if tags else options.encoder, "--output", str(output), "--overwrite"]
    args += ["--tags", str(options.tags or NUM_TAGS)] if tags else []
    args += ["--device", options.device] if options.device else []
    args += [word for name in options.user_classes for word in ("--user_classes", name)]
    paths = [str(source) for source in sources if source.suffix == ".wav" and source.is_file()]
    return embed.embed(embed.build_parser().parse_args([*args, "--", *paths]))


main = main_of(build_parser, separate, WORK_IS_KEPT)
