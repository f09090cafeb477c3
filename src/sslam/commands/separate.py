"""``sslam separate``: files or folders in, one wav for each source out."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sslam
from sslam.audio import SAMPLE_RATE
from sslam.audio_files import write_bad_files
from sslam.checkpoints import CheckpointError, load_separator
from sslam.checkpoints.loading import file_sha256
from sslam.commands.long_command import fail, run_long_command
from sslam.devices import choose_device
from sslam.errors import UsageError
from sslam.networks.tdcn import Separator
from sslam.separation.cache import cache_settings, write_cache
from sslam.separation.separate_files import Wanted, find_inputs, output_names, separate_files
from sslam.separation.state import InputFile, State
from sslam.separation.waveform import BATCH_SIZE, WINDOW_SECONDS, check_settings

BAD_FILES = "bad_files.csv"


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam separate``."""
    parser = argparse.ArgumentParser(
        prog="sslam separate",
        description="Separates audio files into sources, which add up to the file at its own rate, length and number "
        "of channels. RECORDINGS/a/b.flac becomes OUTPUT/a/b_source1.wav, b_source2.wav, ... (32-bit float). Silent "
        "files have silent sources; bad files are listed in OUTPUT/bad_files.csv and never stop it. After an "
        "interruption the same command goes on.",
        epilog="example: sslam separate recordings --checkpoint runs/separate/RUN/checkpoints/last.ckpt "
        "--output separated",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="audio files, or folders to search with all subfolders"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a run (.ckpt) or of sslam convert")
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
        "--window-seconds",
        type=float,
        metavar="S",
        help="longer files are separated in overlapping windows of this length, which bounds the memory (default: "
        f"{WINDOW_SECONDS:g}); with --output",
    )
    parser.add_argument(
        "--batch_size",
        "--batch-size",
        type=int,
        default=BATCH_SIZE,
        metavar="N",
        help="channels of 10 s at once, of files of equal length; of longer ones fewer (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... or auto (default: a GPU if there is one)")
    return parser


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: Command line without the program and command names.

    Returns:
        Exit code: 0, also where some files were bad; 2 for a mistake of the user or if no file could be used; 1 if the
        memory did not suffice; 130 if interrupted.
    """
    options = build_parser().parse_args(args)
    work = separate if options.cache is None else separate_into_cache
    return run_long_command("separate", lambda: work(options))


def separate(options: argparse.Namespace) -> int:
    """Write the sources of files; see :func:`main`."""
    window_seconds = WINDOW_SECONDS if options.window_seconds is None else options.window_seconds
    wanted = Wanted(window_seconds, options.batch_size, options.pictures)
    files = find_inputs(options.paths, options.output)
    separator = prepare_separator(options)
    about = {
        "sslam": sslam.__version__,
        "checkpoint": str(options.checkpoint),
        "num_sources": separator.num_sources,
        "sample_rate": separator.sample_rate,
        "settings": {
            "checkpoint_sha256": file_sha256(options.checkpoint),
            "window_seconds": window_seconds,
        },
    }
    state = State(options.output, about)

    def outputs(file: InputFile) -> list[Path]:
        sources, picture = output_names(file, separator.num_sources, wanted.pictures)
        return [*sources, *([picture] if picture else [])]

    separate_files(separator, unfinished(files, state, outputs), state, wanted)
    return report(files, state, separator.num_sources)


def separate_into_cache(options: argparse.Namespace) -> int:
    """Keep the channels of training clips; see :func:`main`."""
    if options.pictures or options.window_seconds is not None:
        raise UsageError(
            "--pictures and --window_seconds go with --output; for --cache clips are separated as a whole."
        )
    folder = options.cache / options.checkpoint.stem
    # Training finds the clips from wherever it is started.
    files = find_inputs([str(Path(path).absolute()) for path in options.paths], options.cache)
    separator = prepare_separator(options)
    if separator.sample_rate != SAMPLE_RATE:
        raise UsageError(
            f"{options.checkpoint} separates at {separator.sample_rate} Hz, and training clips have {SAMPLE_RATE} Hz. "
            "Give the checkpoint of another separator."
        )
    about = {"sslam": sslam.__version__, "checkpoint": str(options.checkpoint), "num_sources": separator.num_sources}
    state = State(folder, about | {"settings": cache_settings(options.checkpoint)})
    for file in files:
        known, _ = state.finished.get(file.name, (file, None))
        if known.stamp == file.stamp and known.path != file.path:
            state.finished.pop(file.name)  # it has moved: its line is written anew
    left = unfinished(files, state, lambda file: [file.output_name(".npy")])
    write_cache(separator, left, state, options.batch_size)
    return report(files, state, separator.num_sources)


def unfinished(
    files: Sequence[InputFile], state: State, outputs: Callable[[InputFile], Iterable[Path]]
) -> list[InputFile]:
    """The files that are left to do, and a word on the others."""
    left = [file for file in files if not state.is_finished(file, outputs(file))]
    if len(left) < len(files):
        sys.stderr.write(
            f"sslam separate: {len(files) - len(left)} of {len(files)} files are finished already ({state.path}).\n"
        )
    return left


def prepare_separator(options: argparse.Namespace) -> Separator:
    """The separator on its device, and the other options checked.

    Raises:
        UsageError: If a value cannot be used.
        CheckpointError: If the file cannot be used.
    """
    try:
        window_seconds = WINDOW_SECONDS if options.window_seconds is None else options.window_seconds
        check_settings(window_seconds, options.batch_size)
        device = choose_device(options.device)
        return load_separator(options.checkpoint).to(device)
    except (CheckpointError, UsageError):
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def report(files: list[InputFile], state: State, num_sources: int) -> int:
    """Write the list of bad files and say what became of all.

    Returns:
        Exit code: 0, or 2 if no file could be used.
    """
    found = [state.problem_of(file) for file in files]
    problems = [problem for problem in found if problem is not None]
    bad_files = state.folder / BAD_FILES
    bad_files.unlink(missing_ok=True)
    if problems:
        write_bad_files(bad_files, problems)
    skipped = sum(problem.action == "skipped" for problem in problems)
    if skipped == len(files):
        first = problems[0]
        return fail(
            "separate",
            f"None of the {skipped} files can be used; the first is {first.path} ({first.reason}). All of them are "
            f"listed in {bad_files}. Give readable wav, flac, mp3 or ogg files.",
            2,
        )
    sys.stdout.write(f"{len(files) - skipped} files separated into {num_sources} sources each: {state.folder}\n")
    if problems:
        sys.stdout.write(f"{skipped} bad files skipped, {len(problems) - skipped} repaired: {bad_files}\n")
    return 0
