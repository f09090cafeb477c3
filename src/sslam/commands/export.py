"""``sslam export``: a model as a folder for others, with a model card; ONNX; onto the Hub."""

import argparse
import sys
from pathlib import Path

from sslam.commands.command import USER_CLASSES, WEIGHTS_AT, CommandParser, check_output, main_of
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam export``."""
    parser = CommandParser(
        "export",
        description="Writes a model for others: model.safetensors with its front end, config.json, and README.md, a "
        "model card with data, recipe, results, licence and limits as the run's folder tells them. Any command, "
        "load_encoder and AudioEmbedder.from_checkpoint take the folder. Of pre-training the student's encoder is "
        "written, without decoder and teacher; sslam convert keeps those.",
        epilog="example: sslam export runs/pretrain/RUN my_model --license cc-by-4.0 --results runs/evaluation/RUN",
    )
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT", help=f"a run's folder, or a checkpoint: {WEIGHTS_AT}")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new folder to write")
    parser.add_argument(
        "--license", metavar="ID", help="licence of the weights, such as cc-by-4.0; there is no default"
    )
    parser.add_argument("--license_file", type=Path, metavar="FILE", help="its text, copied as LICENSE")
    parser.add_argument(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="results-*.json of evaluations of this checkpoint, or folders of them (such as runs/evaluation/RUN), for "
        "the card, beside those in the run's folder; once or more",
    )
    parser.add_argument(
        "--format",
        choices=("sslam", "hub"),
        default="sslam",
        help="names of tensors and configuration: ours, or those that users of EAT and SSLAM on the Hub expect "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--weights", choices=("student", "teacher"), default="student", help="of pre-training (default: %(default)s)"
    )
    parser.add_argument(
        "--onnx", action="store_true", help="model.onnx besides: waveform in, tokens and embedding out (sslam[onnx])"
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository of --push private")
    parser.add_argument("--user_classes", **USER_CLASSES)
    return parser


def export(options: argparse.Namespace) -> int:
    """Write the folder, and upload it where asked to."""
    from sslam.exporting.licences import check_licence

    check_licence(options.license, options.license_file is not None)
    if options.private and not options.push:
        raise UsageError("--private is of the repository of --push. Leave it out, or give --push OWNER/NAME.")
    check_output(options.folder, overwrite=False)
    licence_text = options.license_file.read_text(encoding="utf-8") if options.license_file else ""
    from sslam.exporting.card import Licence
    from sslam.exporting.folder import write_folder
    from sslam.exporting.push import check_login, push
    from sslam.exporting.source import read_source

    if options.push:
        check_login(options.push)
    source = read_source(options.model, options.weights, options.results, options.user_classes)
    licence = Licence(options.license, licence_text)
    files = write_folder(
        source, options.folder, licence, options.format, options.onnx, options.push, options.user_classes
    )
    sys.stdout.write("".join(f"written: {file}\n" for file in files))
    if options.push:
        sys.stdout.write(f"uploaded: {push(options.folder, options.push, options.private)}\n")
    return DONE


main = main_of(build_parser, export)
