"""`sslam claims`: claims of the papers, the runs that decide them, and one page with the verdicts."""

import argparse
from pathlib import Path

from sslam.commands.command import WORK_IS_KEPT, CommandParser, main_of


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam claims``."""
    parser = CommandParser(
        "claims",
        description="Tests claims: pre-trains the arms of each with every seed, evaluates them, and writes "
        "claims.csv, claims.md and claims.html with numbers, intervals and verdicts. What is finished is not done "
        "again, and claims share the runs that they have in common.",
        epilog="example: sslam claims experiments/claims/sslam_*.yaml --data.root /path/to/recordings",
    )
    parser.add_argument("claims", nargs="+", metavar="FILE.yaml", help="claims, such as those of experiments/claims/")
    parser.add_argument(
        "--data.root",
        dest="root",
        metavar="DATA",
        help="recordings: a folder for each class, a CSV file (file,label[,fold][,group]), or ESC-50 in its official "
        "layout (default: the built-in scenes)",
    )
    parser.add_argument(
        "--scale",
        default="experiments/claims/scale_small.yaml",
        metavar="FILE.yaml",
        help="how large the encoder is, how long it learns, how many scenes there are (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/claims"), help="(default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="say what would be run, and run nothing")
    return parser


def claims(options: argparse.Namespace) -> int:
    """See :func:`sslam.commands.claim_plan.do_claims`."""
    from sslam.commands.claim_plan import do_claims  # what it imports --help need not wait for

    return do_claims(options)


main = main_of(build_parser, claims, WORK_IS_KEPT)
