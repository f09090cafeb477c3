"""``sslam data``: lists, checks and shards of recordings (``index``, ``verify``, ``pack``), what they are like
(``stats``), scenes of them (``render``), AudioSet's labels (``labels``).
"""

import argparse
from collections.abc import Sequence

from sslam.commands.command import WORK_IS_KEPT, CommandParser, main_of
from sslam.commands.data.index import index, index_parser
from sslam.commands.data.labels import labels, labels_parser
from sslam.commands.data.pack import pack, pack_parser
from sslam.commands.data.render import render, render_parser
from sslam.commands.data.stats import stats, stats_parser
from sslam.commands.data.verify import verify, verify_parser


def build_parser() -> argparse.ArgumentParser:
    """The sub-commands of ``sslam data``."""
    parser = CommandParser(
        "data",
        description="index SOURCE --output FILE: a manifest of a folder or a CSV file. verify SOURCE --output FILE: "
        "all files that are bad. pack SOURCE --output FOLDER: tar shards to train from. stats FOLDER: mean and "
        "standard deviation of the log-mels of recordings, for the front end. render FOLDER --output OUTPUT: scenes "
        "made of recordings of classes, as files. labels FOLDER: how many labels the clips of AudioSet have.",
        epilog="sslam data stats --help and so on tell their options.",
    )
    parser.add_argument("subcommand", choices=("index", "verify", "pack", "stats", "render", "labels"))
    return parser


def main(args: Sequence[str]) -> int:
    """Run the command, as :func:`~sslam.commands.command.main_of` makes it, of the sub-command that comes first."""
    mains = {
        "index": main_of(index_parser, index, WORK_IS_KEPT),
        "verify": main_of(verify_parser, verify, WORK_IS_KEPT),
        "pack": main_of(pack_parser, pack, WORK_IS_KEPT),
        "stats": main_of(stats_parser, stats),
        "render": main_of(render_parser, render, WORK_IS_KEPT),
        "labels": main_of(labels_parser, labels),
    }
    return mains[build_parser().parse_args(args[:1]).subcommand](args[1:])
