"""``sslam report``: results of runs as one table and one page."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from sslam.report.results import read_records


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"sslam report: {message}. See sslam report --help.\n")


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam report``."""
    parser = _Parser(
        prog="sslam report",
        description="Gathers the results of evaluations into one table (table.csv, table.md) and one page with "
        "pictures (index.html, which needs no other file). Runs that differ only in fold or seed become mean and "
        "standard deviation; of a setting that was evaluated twice the newest run counts, and a note says so.",
        epilog="example: sslam report runs --output runs/report",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="run folders, folders of them, or results-*.json files"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/report"),
        metavar="FOLDER",
        help="folder to write into (default: %(default)s)",
    )
    return parser


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: Command line without the program and command names.

    Returns:
        Exit code: 0, or 2 if there is no result or the output cannot be written, with the reason on stderr.
    """
    options = build_parser().parse_args(args)
    runs, problems = read_records(options.runs)
    for problem in problems:
        sys.stderr.write(f"sslam report: {problem}\n")
    if not runs:
        sys.stderr.write("sslam report: there are no results to report.\n")
        return 2
    # matplotlib takes a second, which a wrong folder need not wait for.
    from sslam.report.page import write_page
    from sslam.report.tables import build_table
    from sslam.report.texts import csv_text, markdown, origins_markdown, weights_markdown

    table = build_table(runs)
    text = markdown(table) + weights_markdown(table)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "table.csv").write_text(csv_text(table), encoding="utf-8")
        (options.output / "table.md").write_text(f"{text}\n{origins_markdown(table)}", encoding="utf-8")
        page, *_ = write_page(options.output, table, problems)
    except OSError as error:
        sys.stderr.write(f"sslam report: {options.output} cannot be written ({error}). Choose another --output.\n")
        return 2
    sys.stdout.write(f"{text}\nwritten: {page}, {options.output / 'table.csv'}, {options.output / 'table.md'}\n")
    return 0
