"""``sslam embed``: files or folders in; embeddings of clips or frames, or tags, out."""

import argparse
import math
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sslam
from sslam.audio_files import find_audio_files, stated_size, write_bad_files
from sslam.checkpoints import CheckpointError
from sslam.checkpoints.loading import file_sha256
from sslam.commands.long_command import fail, run_long_command
from sslam.devices import choose_device
from sslam.embedding.embed_files import Wanted, embed_files
from sslam.embedding.embedder import AudioEmbedder
from sslam.embedding.files import EmbeddingError
from sslam.embedding.output import WRITERS
from sslam.embedding.parts import Parts


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam embed``."""
    parser = argparse.ArgumentParser(
        prog="sslam embed",
        description="Embeds audio files with an encoder, or tags them with a fine-tuned one. Files of any length are "
        "read; recordings longer than two minutes are cut into the fewest pieces of equal length, whose embeddings (or "
        "probabilities) are averaged. Bad files are listed in OUTPUT.bad_files.csv and never stop it. Finished work is "
        "kept in OUTPUT.parts: after an interruption the same command goes on from there.",
        epilog="example: sslam embed recordings --checkpoint runs/pretrain/RUN/checkpoints/last.ckpt --output all.npz",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="audio files, or folders to search with all subfolders"
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="of a run (.ckpt), of sslam convert, or published"
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
        choices=("clip", "frame"),
        default="clip",
        help="one vector per file, or one every 160 ms (default: %(default)s)",
    )
    parser.add_argument(
        "--pooling",
        choices=("cls", "mean", "both"),
        help="of a clip's vector: CLS token (default), mean of the patches, or one after the other",
    )
    parser.add_argument("--tags", type=int, metavar="K", help="the K most probable classes of a fine-tuned checkpoint")
    parser.add_argument(
        "--weights", choices=("student", "teacher"), default="student", help="of pre-training (default: %(default)s)"
    )
    parser.add_argument(
        "--num_frames",
        type=int,
        help="pad or cut every file to so many frames of 10 ms (published: 1024); by default each has its own",
    )
    parser.add_argument("--mean", type=float, help="of the log-mels in training (default: as the checkpoint states)")
    parser.add_argument("--std", type=float, help="likewise")
    parser.add_argument(
        "--batch_size", type=int, default=32, help="clips of 10 s at once; of longer ones fewer (default: %(default)s)"
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="threads that read files (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
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

    def work() -> int:
        check_options(options)
        return embed(options)

    return run_long_command("embed", work)


def check_options(options: argparse.Namespace) -> None:
    """Refuse values that do not go together.

    Raises:
        EmbeddingError: With the remedy.
    """
    for name in ("batch_size", "num_workers", "tags"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise EmbeddingError(f"--{name} must be at least 1, got {value}.")
    if options.mean is not None and not math.isfinite(options.mean):
        raise EmbeddingError(f"--mean must be finite, got {options.mean}.")
    if options.std is not None and not 0 < options.std < math.inf:
        raise EmbeddingError(f"--std must be finite and greater than 0, got {options.std}.")
    suffix = options.output.suffix.lower()
    wanted = (".csv",) if options.tags else (".npz", ".parquet")
    if suffix not in wanted:
        of_what = "tags" if options.tags else "embeddings (without --tags)"
        raise EmbeddingError(f"--output must end in {' or '.join(wanted)} for {of_what}, got {options.output}.")
    if options.pooling and (options.tags or options.level == "frame"):
        raise EmbeddingError("--pooling is of a clip's embedding. Leave it out with --level frame and with --tags.")
    if options.tags and options.level == "frame":
        raise EmbeddingError("--tags are of whole files. Leave --level frame out.")
    if options.output.exists() and not options.overwrite:
        raise EmbeddingError(f"{options.output} exists already. Choose another name or add --overwrite.")
    if not options.output.parent.is_dir():
        raise EmbeddingError(f"There is no folder {options.output.parent}. Make it, or choose another output.")


def embed(options: argparse.Namespace) -> int:
    """Do what the checked options say; see :func:`main`."""
    files = find_audio_files(options.paths)
    embedder = load_embedder(options)
    settings: dict[str, Any] = {
        "checkpoint_sha256": file_sha256(options.checkpoint),
        **{name: getattr(options, name) for name in ("level", "tags", "weights", "num_frames")},
        "pooling": embedder.pooling,
        **{name: getattr(embedder.frontend, name) for name in ("mean", "std")},
        "device": embedder.device.type,
    }
    parts = Parts(_beside(options.output, ".parts"), settings, files)
    with ThreadPoolExecutor(options.num_workers) as readers:
        try:
            if not parts.stated_seconds:
                parts.begin([stated.seconds for stated in readers.map(stated_size, files)])
            elif parts.finished:
                sys.stderr.write(
                    f"sslam embed: {len(parts.finished)} of {len(files)} files are finished already ({parts.path}).\n"
                )
            embed_files(embedder, parts, Wanted(options.level, options.tags, options.batch_size), readers)
        finally:
            readers.shutdown(cancel_futures=True)
    about = {"sslam": sslam.__version__, "checkpoint": str(options.checkpoint), **settings}
    if options.tags:
        about["class_names"] = embedder.class_names
    return write_output(parts, options.output, about)


def load_embedder(options: argparse.Namespace) -> AudioEmbedder:
    """The model, with what it warns of as a message.

    Raises:
        CheckpointError: If the file cannot be used, also for tags.
        EmbeddingError: If an option does not fit the model.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            embedder = AudioEmbedder.from_checkpoint(
                options.checkpoint, options.weights, choose_device(options.device), options.pooling or "cls",
                options.num_frames, options.mean, options.std,
            )  # fmt: skip
        except CheckpointError:
            raise
        except ValueError as error:
            raise EmbeddingError(str(error)) from error
    for warning in caught:
        sys.stderr.write(f"sslam embed: {warning.message}\n")
    if options.tags and not embedder.num_classes:
        raise CheckpointError(
            f"{options.checkpoint} is of pre-training and has no classes. Give a fine-tuned checkpoint for --tags."
        )
    if options.tags and options.tags > embedder.num_classes:
        raise EmbeddingError(f"--tags must be at most the model's {embedder.num_classes} classes, got {options.tags}.")
    return embedder


def write_output(parts: Parts, output: Path, about: dict[str, Any]) -> int:
    """Write the output and the list of bad files from finished work, which is then removed.

    Returns:
        Exit code: 0, or 2 if no file could be used.
    """
    bad_files = _beside(output, ".bad_files.csv")
    bad_files.unlink(missing_ok=True)
    problems = [problem for _, problem in sorted(parts.problems.items())]
    if problems:
        write_bad_files(bad_files, problems)
    skipped = sum(problem.action == "skipped" for problem in problems)
    if skipped == len(parts.files):
        parts.remove()
        first = problems[0]
        return fail(
            "embed",
            f"None of the {skipped} files can be used; the first is {first.path} ({first.reason}). All of them are "
            f"listed in {bad_files}. Give readable wav, flac, mp3 or ogg files.",
            2,
        )
    partial = parts.path / "output.partial"
    WRITERS[output.suffix.lower()](partial, parts.files, parts.merge(), about)
    partial.replace(output)
    parts.remove()
    sys.stdout.write(f"{len(parts.files) - skipped} files embedded: {output}\n")
    if problems:
        sys.stdout.write(f"{skipped} bad files skipped, {len(problems) - skipped} repaired: {bad_files}\n")
    return 0


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(output.name + suffix)
