"""``sslam data labels``: how many labels the clips of AudioSet have."""

import argparse
import sys
from pathlib import Path

from sslam.commands.command import CommandParser
from sslam.commands.data.options import options_called
from sslam.commands.exit_codes import DONE


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

    with options_called("--data.metadata", "FOLDER"):
        ids, labels_NC = read_labels(options.metadata, options.subset)
        ontology = None if options.ontology is None else read_ontology(options.ontology, ids)
    sys.stdout.write(labels_per_clip(labels_NC, ids, ontology))
    return DONE
