"""``sslam convert``: published EAT and SSLAM checkpoints to ours, and back."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import save_file

from sslam.checkpoints import published
from sslam.checkpoints.contents import METADATA_KEY
from sslam.checkpoints.loading import Checkpoint, file_sha256, read_checkpoint
from sslam.checkpoints.restricted_pickle import CheckpointError, printable

FORMAT_VERSION = 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"sslam convert: {message}. See sslam convert --help.\n")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam convert``."""
    parser = _Parser(
        prog="sslam convert",
        description="Turns a published EAT or SSLAM checkpoint, or one of our runs, into a safetensors file that "
        "pre-training (initial_checkpoint) and evaluation load; or any of these into the published names. Nothing in "
        "the file is executed.",
    )
    parser.add_argument("input", type=Path, help="published file, checkpoint of a run (.ckpt) or our .safetensors")
    parser.add_argument("output", type=Path, help="file to write")
    parser.add_argument(
        "--to", choices=("sslam", "published"), default="sslam", help="format of the output (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument(
        "--allow-unknown", action="store_true", help="leave out tensors of unknown names, and list them"
    )
    parser.add_argument(
        "--num-heads", type=_positive, help="attention heads (default: as the file states, or width / 64)"
    )
    parser.add_argument("--num-mel-bins", type=_positive, help="mel bins of the features (default: as stated, or 128)")
    return parser


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: Command line without the program and command names.

    Returns:
        Exit code: 0, or 2 for a file that cannot be converted, with the reason on stderr.
    """
    options = build_parser().parse_args(args)
    try:
        if options.output.exists() and not options.overwrite:
            raise CheckpointError(f"{options.output} exists already. Choose another name or add --overwrite.")
        if not options.output.parent.is_dir():
            raise CheckpointError(f"There is no folder {options.output.parent}. Make it, or choose another output.")
        checkpoint = read_checkpoint(options.input, options.allow_unknown, options.num_heads, options.num_mel_bins)
        if not checkpoint.source_sha256:
            checkpoint = replace(checkpoint, source_sha256=file_sha256(options.input))
        if options.to == "published":
            write_published(checkpoint, options.output)
        else:
            write_sslam(checkpoint, options.output)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"sslam convert: {error}\n")
        return 2
    sys.stdout.write(summary(checkpoint) + f"\nwritten: {options.output} ({options.to})\n")
    return 0


def write_sslam(checkpoint: Checkpoint, path: Path) -> None:
    """Write our format: safetensors with the kind, the networks' arguments and the source in its header."""
    checkpoint.encoder_arguments()
    header = {
        "format_version": FORMAT_VERSION,
        "kind": checkpoint.kind,
        "hyper_parameters": checkpoint.hyper_parameters,
        "class_names": checkpoint.class_names,
        "source_sha256": checkpoint.source_sha256,
    }
    metadata = {"format": "pt", METADATA_KEY: json.dumps(header)}
    _write_whole(path, lambda partial: save_file(checkpoint.tensors, partial, metadata))


def write_published(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``{"model": state dict}`` with the published names, the teacher under ``_ema``, positions included.

    What the published format has no place for (front end, pooling, names of classes) goes beside it under the names of
    our runs, which other readers pass over.
    """
    encoder = checkpoint.hyper_parameters["encoder"]
    positions = published.published_positions(encoder["width"], encoder["num_mel_bins"] // encoder["patch_size"])
    tensors = {published.published_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    prefix = published.EMA + "."
    state: dict[str, object] = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    state[("model." if checkpoint.kind == "fine_tuned" else "") + published.POSITIONS] = positions
    teacher = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if teacher:
        state[published.EMA] = {**teacher, published.POSITIONS: positions.clone()}
    stated = {
        name: checkpoint.hyper_parameters[name]
        for name in ("encoder", "frontend", "head")
        if name in checkpoint.hyper_parameters
    }
    root: dict[str, object] = {"model": state}
    if checkpoint.class_names or "frontend" in stated:
        root |= {"architecture": stated, "class_names": checkpoint.class_names}
    _write_whole(path, lambda partial: torch.save(root, partial))


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside the output and then rename, so that an interrupted run leaves no half file and spoils no old one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def summary(checkpoint: Checkpoint) -> str:
    """What was read, for the terminal."""
    encoder = checkpoint.hyper_parameters["encoder"]
    tensors = checkpoint.tensors
    sizes = ", ".join(f"{name} {value:g}" for name, value in encoder.items() if value is not None)
    parts: dict[str, list[str]] = {}
    for name in tensors:
        parts.setdefault(name.removesuffix(name.partition(".")[2]).rstrip("."), []).append(name)
    lines = [f"kind: {checkpoint.kind}", f"encoder: {sizes}"]
    if "decoder" in checkpoint.hyper_parameters:
        decoder = checkpoint.hyper_parameters["decoder"]
        lines.append("decoder: " + ", ".join(f"{name} {value}" for name, value in decoder.items()))
    frontend = checkpoint.hyper_parameters.get("frontend", {})
    lines.append("front end: " + (", ".join(f"{name} {value:g}" for name, value in frontend.items()) or "not stated"))
    if "num_classes" in checkpoint.hyper_parameters:
        first = ", ".join(map(printable, checkpoint.class_names[:3])) or "not named"
        more = ", ..." if len(checkpoint.class_names) > 3 else ""
        lines.append(f"classes: {checkpoint.hyper_parameters['num_classes']} ({first}{more})")
    lines += [
        f"{part}: {len(names)} tensors, {sum(tensors[name].numel() for name in names):,} parameters"
        for part, names in parts.items()
    ]
    lines.append(f"source SHA-256: {checkpoint.source_sha256}")
    for title, names in (("skipped", checkpoint.skipped), ("unknown, left out", checkpoint.unknown)):
        if names:
            lines.append(f"{title}:\n  " + "\n  ".join(map(printable, names)))
    return "\n".join(lines)
