"""``sslam report``: results of runs as one table and one page."""

import argparse
import sys
from pathlib import Path

from sslam.commands.command import CommandParser, main_of
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError, for_terminal


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam report``."""
    parser = CommandParser(
        "report",
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


def report(runs: list[Path], output: Path) -> int:
    """Write table and page of the results of runs; what cannot be used of them is named."""
    from sslam.report.results import read_records

    records, problems = read_records(runs)
    for problem in problems:
        sys.stderr.write(for_terminal(f"sslam report: {problem}\n"))
    if not records:
        raise UsageError("there are no results to report.")
    # matplotlib takes a second, which a wrong folder need not wait for.
    from matplotlib import rc_context

    from sslam.report.comparison import Comparison
    from sslam.report.page import write_page
    from sslam.report.tables import build_table
    from sslam.report.texts import csv_text, markdown, origins_markdown

    comparison = Comparison(build_table(records))
    text = markdown(comparison)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "table.csv").write_text(csv_text(comparison), encoding="utf-8")
        (output / "table.md").write_text(f"{text}\n{origins_markdown(comparison)}", encoding="utf-8")
        with rc_context({"text.parse_math": False}):  # a name may hold dollar signs
            page, *_ = write_page(output, comparison, problems)
    except OSError as error:
        raise UsageError(f"{output} cannot be written ({error}). Choose another --output.") from error
    sys.stdout.write(f"{for_terminal(text)}\nwritten: {page}, {output / 'table.csv'}, {output / 'table.md'}\n")
    return DONE


main = main_of(build_parser, lambda options: report(options.runs, options.output))
