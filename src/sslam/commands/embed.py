"""``sslam embed``: files or folders in; embeddings of clips or frames, or tags, out."""

import argparse
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
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
    check_output,
    choose_device,
    close_file_command,
    finite_number,
    main_of,
    positive_integer,
    positive_number,
    say_what_is_finished,
)
from sslam.errors import UsageError

TAG_SECONDS = 2.0  # as in sslam.embedding.tags_over_time, whose import takes seconds; a test compares them


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam embed``."""
    parser = CommandParser(
        "embed",
        description="Embeds audio files with an encoder, or tags them with a fine-tuned one. Files of any length are "
        "read in a memory that does not grow with them; what is longer than two minutes is heard in overlapping "
        "windows, whose embeddings (or probabilities) are averaged. Bad files are listed in OUTPUT.bad_files.csv and "
        "never stop it. Finished work is kept in OUTPUT.parts: after an interruption the same command goes on from there.",
        epilog="example: sslam embed recordings --checkpoint runs/pretrain/RUN/checkpoints/last.ckpt --output all.npz",
    )
    parser.add_argument("paths", **AUDIO_PATHS)
    parser.add_argument(
        "--checkpoint", required=True, help=f"of a run (.ckpt), of sslam convert, or published: {WEIGHTS_AT}"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="FILE.npz or FILE.parquet for embeddings, FILE.csv for tags; one row per file, or per frame, in the order "
        "of the file names",
    )
    parser.add_argument(
        "--level",
        choices=("clip", "frame", "patch"),
        default="clip",
        help="one vector per file, one every 160 ms, or every patch of these; with --tags frame gives tags over time "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--pooling",
        choices=("cls", "mean", "both", "statistics", "row_statistics"),
        help="of a clip's vector: CLS token (default), mean of the patches, both one after the other, mean and "
        "standard deviation of the patches, or these over time for each frequency row",
    )
    parser.add_argument(
        "--layers",
        type=layer_numbers,
        metavar="N,N",
        help="layers of the encoder whose pooled tokens become the vector, one after the other, such as 4,8,12; by "
        "default its output",
    )
    parser.add_argument(
        "--tags", type=positive_integer, metavar="K", help="the K most probable classes of a fine-tuned checkpoint"
    )
    parser.add_argument(
        "--window_seconds",
        type=positive_number,
        metavar="S",
        help="length of the windows of a long recording, which overlap by a tenth (default: two minutes); for tags "
        f"over time of all windows, which overlap by half (default: {TAG_SECONDS:g})",
    )
    parser.add_argument(
        "--weights", choices=("student", "teacher"), default="student", help="of pre-training (default: %(default)s)"
    )
    parser.add_argument(
        "--num_frames",
        type=int,
        help="pad or cut every file to so many frames of 10 ms (published: 1024); by default each has its own",
    )
    parser.add_argument(
        "--mean", type=finite_number, help="of the log-mels in training (default: as the checkpoint states)"
    )
    parser.add_argument("--std", type=positive_number, help="likewise")
    parser.add_argument(
        "--batch_size",
        type=positive_integer,
        default=32,
        help="clips of 10 s at once; of longer ones fewer (default: %(default)s)",
    )
    parser.add_argument(
        "--num_workers",
        type=positive_integer,
        default=min(4, os.cpu_count() or 1),
        help="threads that read files (default: %(default)s)",
    )
    parser.add_argument("--user_classes", **USER_CLASSES)
    parser.add_argument("--device", **DEVICE)
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    return parser


def layer_numbers(text: str) -> tuple[int, ...]:
    """Parse the value of ``--layers``, such as ``4,8,12``."""
    try:
        return tuple(map(int, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"numbers of layers such as 4,8,12 are wanted, got {text!r}") from error


def check_options(options: argparse.Namespace) -> None:
    """Refuse values that do not go together.

    Raises:
        UsageError: With the remedy.
    """
    wanted = (".csv",) if options.tags else (".npz", ".parquet")
    if options.output.suffix.lower() not in wanted:
        of_what = "tags" if options.tags else "embeddings (without --tags)"
        raise UsageError(f"--output must end in {' or '.join(wanted)} for {of_what}, got {options.output}.")
    for name in ("pooling", "layers"):
        if getattr(options, name) and (options.tags or options.level != "clip"):
            raise UsageError(f"--{name} is of a clip's embedding. Leave it out with --level and with --tags.")
    if options.tags and options.level == "patch":
        raise UsageError("--tags are of whole files, or with --level frame over time. Leave --level patch out.")
    if options.num_frames and options.window_seconds:
        raise UsageError("With --num_frames the beginning of every file counts alone. Leave --window_seconds out.")
    if options.num_frames and options.tags and options.level == "frame":
        raise UsageError("With --num_frames the beginning of every file counts alone. Leave it out for tags over time.")
    check_output(options.output, options.overwrite)


def embed(options: argparse.Namespace) -> int:
    """Embed or tag files, of which some may be bad, and list those."""
    check_options(options)
    from sslam.audio_files import find_audio_files
    from sslam.checkpoints.loading import file_sha256
    from sslam.checkpoints.location import resolve
    from sslam.embedding import AudioEmbedder
    from sslam.embedding.embed_files import Wanted, embed_files
    from sslam.embedding.output import WRITERS
    from sslam.embedding.parts import LIST, Parts
    from sslam.finished_files import InputFile

    files = [InputFile.at(path, path) for path in find_audio_files(options.paths)]
    is_over_time = options.tags and options.level == "frame"
    location = resolve(options.checkpoint)
    embedder = AudioEmbedder.from_checkpoint(
        location.address, options.weights, choose_device(options.device), options.pooling or "cls",
        options.num_frames, options.mean, options.std, options.user_classes, options.layers,
        None if is_over_time else options.window_seconds,
    )  # fmt: skip
    if options.tags and not embedder.num_classes:
        raise UsageError(
            f"{options.checkpoint} is of pre-training and has no classes. Give a fine-tuned checkpoint for --tags."
        )
    if options.tags and options.tags > embedder.num_classes:
        raise UsageError(f"--tags must be at most the model's {embedder.num_classes} classes, got {options.tags}.")

    settings = {
        "checkpoint_sha256": file_sha256(location.file),
        **{name: getattr(options, name) for name in ("level", "tags", "weights", "num_frames", "window_seconds")},
        **embedder.readout.stated(),
        "mean": embedder.frontend.mean,
        "std": embedder.frontend.std,
        "device": embedder.device.type,
    }
    about: dict[str, Any] = {"sslam": sslam.__version__, "checkpoint": location.address, "revision": location.revision}
    output: Path = options.output
    parts = Parts(output.with_name(output.name + ".parts") / LIST, about | {"settings": settings})
    say_what_is_finished("embed", len(files) - len(parts.left(files)), len(files), parts.folder)
    wanted = Wanted(options.level, options.tags, options.batch_size, options.window_seconds or TAG_SECONDS)
    with ThreadPoolExecutor(options.num_workers) as readers:
        try:
            embed_files(embedder, files, parts, wanted, readers)
        finally:
            readers.shutdown(cancel_futures=True)

    about |= settings
    if options.tags:
        about["class_names"] = embedder.class_names
    merged = parts.merge(files)
    if merged.columns:  # there is a good file
        partial = parts.folder / "output.partial"
        WRITERS[output.suffix.lower()](partial, [file.path for file in files], merged, about)
        skipped = sum(problem.action == "skipped" for problem in parts.problems(files))
        if (inside := int((merged.num_rows > 0).sum())) != len(files) - skipped:
            raise UsageError(
                f"Only {inside} of {len(files) - skipped} good files have results in {parts.folder}. Run the same "
                "command again."
            )
        partial.replace(output)
    try:
        bad_files = output.with_name(output.name + ".bad_files.csv")
        return close_file_command(len(files), parts.problems(files), bad_files, f"embedded: {output}")
    finally:
        shutil.rmtree(parts.folder)


main = main_of(build_parser, embed, WORK_IS_KEPT)
