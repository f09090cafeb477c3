"""``sslam convert``: published EAT, SSLAM and MixIT checkpoints to ours, and encoders back."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sslam.commands.command import USER_CLASSES, WEIGHTS_AT, CommandParser, check_output, main_of, positive_integer
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError, printable

if TYPE_CHECKING:
    from sslam.checkpoints import Checkpoint
    from sslam.checkpoints.separators import SeparatorCheckpoint


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam convert``."""
    parser = CommandParser(
        "convert",
        description="Turns a published EAT or SSLAM checkpoint, or one of our runs, into a safetensors file that "
        "pre-training (initial_checkpoint) and evaluation load; or any of these into the published layouts. Turns a "
        "TensorFlow checkpoint of the authors' MixIT code, or a MixIT run, into a safetensors file of the separator. "
        "Nothing in the file is executed.",
    )
    parser.add_argument(
        "input",
        help=f"published weights, checkpoint of a run (.ckpt) or our .safetensors: {WEIGHTS_AT}; "
        "of a TensorFlow checkpoint the .index "
        "file, or what its files' names begin with (model.ckpt-1000 of model.ckpt-1000.index)",
    )
    parser.add_argument("output", type=Path, help="file to write; with --to hub the folder")
    parser.add_argument(
        "--to",
        choices=("sslam", "published", "hub"),
        default="sslam",
        help="format of the output: ours, "
        "the file that fairseq writes, or the Hub's config.json and model.safetensors (default: %(default)s)",
    )
    parser.add_argument("--user_classes", **USER_CLASSES)
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    encoders = parser.add_argument_group("encoders (EAT, SSLAM)")
    encoders.add_argument(
        "--allow_unknown", action="store_true", help="leave out tensors of unknown names, and list them"
    )
    encoders.add_argument(
        "--num_heads", type=positive_integer, help="attention heads (default: as the file states, or width / 64)"
    )
    encoders.add_argument(
        "--num_mel_bins", type=positive_integer, help="mel bins of the features (default: as stated, or 128)"
    )
    separators = parser.add_argument_group("separators (TensorFlow checkpoints only)")
    separators.add_argument(
        "--consistency",
        choices=("pred_source", "magsq", "uniform", "none"),
        help="how the estimates are made to add up to the mixture; needed where the file has no mix_weights, which "
        "tell that it is pred_source",
    )
    separators.add_argument(
        "--dilation_cycle", type=positive_integer, help="blocks after which the dilation starts again (default: 8)"
    )
    return parser


def convert(options: argparse.Namespace) -> int:
    """Read the input, write the output and say what was in it."""
    check_output(options.output, options.overwrite, is_folder=options.to == "hub")
    from sslam.checkpoints.separators import SeparatorCheckpoint
    from sslam.checkpoints.writing import write_hub, write_published, write_separator, write_sslam

    checkpoint = read(options)
    if isinstance(checkpoint, SeparatorCheckpoint):
        write_separator(checkpoint, options.output)
        lines = about_separator(checkpoint)
    else:
        {"published": write_published, "hub": write_hub, "sslam": write_sslam}[options.to](checkpoint, options.output)
        lines = about_encoder(checkpoint)
    lines.append(f"source SHA-256: {checkpoint.source_sha256}")
    unknown = () if isinstance(checkpoint, SeparatorCheckpoint) else checkpoint.unknown
    for title, names in (("skipped", checkpoint.skipped), ("unknown, left out", unknown)):
        lines += [f"{title}:", *(f"  {printable(name)}" for name in names)] if names else []
    lines.append(f"written: {options.output} ({options.to})")
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE


def read(options: argparse.Namespace) -> "Checkpoint | SeparatorCheckpoint":
    """The input, whatever it is, with its SHA-256 unless it states another file's."""
    from sslam.checkpoints.loading import file_sha256, read_checkpoint
    from sslam.checkpoints.location import resolve
    from sslam.checkpoints.separators import holds_separator, read_published_separator, read_separator
    from sslam.checkpoints.tensorflow_bundle import bundle_files, is_bundle

    if is_bundle(options.input):
        refuse(options, ("to", "allow_unknown", "num_heads", "num_mel_bins"), "a separator")
        bundle = read_published_separator(options.input, options.consistency, options.dilation_cycle or 8)
        return replace(bundle, source_sha256=file_sha256(*bundle_files(options.input)))
    checkpoint: Checkpoint | SeparatorCheckpoint
    file = resolve(options.input).file
    if holds_separator(file):
        refuse(options, ("to", "allow_unknown", "num_heads", "num_mel_bins"), "a separator")
        refuse(options, ("consistency", "dilation_cycle"), "no TensorFlow checkpoint and states them itself")
        checkpoint = read_separator(file, options.user_classes)
    else:
        refuse(options, ("consistency", "dilation_cycle"), "no TensorFlow checkpoint")
        checkpoint = read_checkpoint(
            file, options.allow_unknown, options.num_heads, options.num_mel_bins, options.user_classes
        )
    return replace(checkpoint, source_sha256=checkpoint.source_sha256 or file_sha256(file))


def refuse(options: argparse.Namespace, names: tuple[str, ...], kind: str) -> None:
    """Options that would be passed over are refused."""
    for name in names:
        value = getattr(options, name)
        if value not in (None, False, "sslam"):
            given = f"--{name}" if value is True else f"--{name} {value}"
            raise UsageError(f"{given} is not for {options.input}, which is {kind}. Leave it out.")


def about_encoder(checkpoint: "Checkpoint") -> list[str]:
    """What was read of an encoder, for the terminal."""
    from sslam.checkpoints.architecture import in_words

    stated = {role: in_words(network.arguments) for role, network in checkpoint.networks.items()}
    tensors = checkpoint.tensors
    parts: dict[str, list[str]] = {}
    for name in tensors:
        parts.setdefault(name.partition(".")[0], []).append(name)
    lines = [f"kind: {checkpoint.kind}", f"encoder: {stated['encoder']}"]
    if "decoder" in stated:
        lines.append(f"decoder: {stated['decoder']}")
    lines.append(f"front end: {stated.get('frontend', 'not stated')}")
    if checkpoint.num_classes:
        first = ", ".join(map(printable, checkpoint.class_names[:3])) or "not named"
        more = ", ..." if len(checkpoint.class_names) > 3 else ""
        lines.append(f"classes: {checkpoint.num_classes} ({first}{more})")
    return lines + [
        f"{part}: {len(names)} tensors, {sum(tensors[name].numel() for name in names):,} parameters"
        for part, names in parts.items()
    ]


def about_separator(checkpoint: "SeparatorCheckpoint") -> list[str]:
    """What was read of a separator, for the terminal."""
    from sslam.checkpoints.architecture import in_words

    parameters = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    return [
        "kind: separator",
        f"separator: {in_words(checkpoint.network.arguments)}",
        f"variables: {len(checkpoint.tensors)} tensors, {parameters:,} parameters",
        f"global step: {'not stated' if checkpoint.global_step is None else format(checkpoint.global_step, ',')}",
    ]


main = main_of(build_parser, convert)
