"""``sslam convert``: published EAT, SSLAM and MixIT checkpoints to ours, and encoders back."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from sslam.checkpoints.loading import Checkpoint, file_sha256, read_checkpoint
from sslam.checkpoints.separators import (
    SeparatorCheckpoint,
    holds_separator,
    read_published_separator,
    read_separator,
)
from sslam.checkpoints.tensorflow_bundle import bundle_files, is_bundle
from sslam.checkpoints.writing import write_published, write_separator, write_sslam
from sslam.errors import CheckpointError, printable


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
        "pre-training (initial_checkpoint) and evaluation load; or any of these into the published names. Turns a "
        "TensorFlow checkpoint of the authors' MixIT code, or a MixIT run, into a safetensors file of the separator. "
        "Nothing in the file is executed.",
    )
    parser.add_argument(
        "input",
        type=Path,
        help="published file, checkpoint of a run (.ckpt) or our .safetensors; of a TensorFlow checkpoint the .index "
        "file, or what its files' names begin with (model.ckpt-1000 of model.ckpt-1000.index)",
    )
    parser.add_argument("output", type=Path, help="file to write")
    parser.add_argument(
        "--to", choices=("sslam", "published"), default="sslam", help="format of the output (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    encoders = parser.add_argument_group("encoders (EAT, SSLAM)")
    encoders.add_argument(
        "--allow-unknown", action="store_true", help="leave out tensors of unknown names, and list them"
    )
    encoders.add_argument(
        "--num-heads", type=_positive, help="attention heads (default: as the file states, or width / 64)"
    )
    encoders.add_argument(
        "--num-mel-bins", type=_positive, help="mel bins of the features (default: as stated, or 128)"
    )
    separators = parser.add_argument_group("separators (TensorFlow checkpoints only)")
    separators.add_argument(
        "--consistency",
        choices=("pred_source", "magsq", "uniform", "none"),
        help="how the estimates are made to add up to the mixture; needed where the file has no mix_weights, which "
        "tell that it is pred_source",
    )
    separators.add_argument(
        "--dilation-cycle", type=_positive, help="blocks after which the dilation starts again (default: 8)"
    )
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
        checkpoint = _read(options)
        if isinstance(checkpoint, SeparatorCheckpoint):
            write_separator(checkpoint, options.output)
        elif options.to == "published":
            write_published(checkpoint, options.output)
        else:
            write_sslam(checkpoint, options.output)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"sslam convert: {error}\n")
        return 2
    text = separator_summary(checkpoint) if isinstance(checkpoint, SeparatorCheckpoint) else summary(checkpoint)
    sys.stdout.write(text + f"\nwritten: {options.output} ({options.to})\n")
    return 0


def _read(options: argparse.Namespace) -> Checkpoint | SeparatorCheckpoint:
    """The input, whatever it is, with its SHA-256 unless it states another file's."""
    if is_bundle(options.input):
        _refuse(options, ("to", "allow_unknown", "num_heads", "num_mel_bins"), "a separator")
        bundle = read_published_separator(options.input, options.consistency, options.dilation_cycle or 8)
        return replace(bundle, source_sha256=file_sha256(*bundle_files(options.input)))
    checkpoint: Checkpoint | SeparatorCheckpoint
    if holds_separator(options.input):
        _refuse(options, ("to", "allow_unknown", "num_heads", "num_mel_bins"), "a separator")
        _refuse(options, ("consistency", "dilation_cycle"), "no TensorFlow checkpoint and states them itself")
        checkpoint = read_separator(options.input)
    else:
        _refuse(options, ("consistency", "dilation_cycle"), "no TensorFlow checkpoint")
        checkpoint = read_checkpoint(options.input, options.allow_unknown, options.num_heads, options.num_mel_bins)
    return replace(checkpoint, source_sha256=checkpoint.source_sha256 or file_sha256(options.input))


def _refuse(options: argparse.Namespace, names: tuple[str, ...], kind: str) -> None:
    """Options that would be passed over are refused."""
    for name in names:
        value = getattr(options, name)
        if value not in (None, False, "sslam"):
            option = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise CheckpointError(f"{option} is not for {options.input}, which is {kind}. Leave it out.")


def summary(checkpoint: Checkpoint) -> str:
    """What was read, for the terminal."""
    encoder = checkpoint.hyper_parameters["encoder"]
    tensors = checkpoint.tensors
    sizes = ", ".join(
        f"{name} {value if isinstance(value, list) else format(value, 'g')}"
        for name, value in encoder.items()
        if value is not None
    )
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


def separator_summary(checkpoint: SeparatorCheckpoint) -> str:
    """What was read of a separator, for the terminal."""
    step = "not stated" if checkpoint.global_step is None else f"{checkpoint.global_step:,}"
    parameters = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    lines = [
        "kind: separator",
        "separator: " + ", ".join(f"{name} {value}" for name, value in checkpoint.architecture.items()),
        f"variables: {len(checkpoint.tensors)} tensors, {parameters:,} parameters",
        f"global step: {step}",
        f"source SHA-256: {checkpoint.source_sha256}",
    ]
    if checkpoint.skipped:
        lines.append("skipped:\n  " + "\n  ".join(map(printable, checkpoint.skipped)))
    return "\n".join(lines)
