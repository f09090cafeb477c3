"""Numbers of the papers, shown beside ours where task and method are the published ones."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sslam.report.tables import Cell

FILE = Path(__file__).with_name("published.yaml")


@cache
def published_rows() -> dict[tuple[str, str], dict[str, Any]]:
    """Of every recipe of `sslam evaluate` and title of its data `numbers`, in per cent by system, and `whole`.

    The latter are the numbers of folds and clips of a data set that has a fixed size.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in yaml.safe_load(FILE.read_text(encoding="utf-8")):
        for title, numbers in entry["numbers"].items():
            assert (entry["recipe"], title) not in rows, title
            rows[entry["recipe"], title] = {"numbers": numbers, "whole": entry.get("whole")}
    return rows


def published_of(cell: Cell) -> str:
    """`EAT 95.9, SSLAM 96.2`, or "" for a cell of another task, method or split, or of a part of the data."""
    (recipe, *others) = {(run.record.experiment, run.record.data.title) for run in cell.runs}
    row = published_rows().get(recipe)
    if row is None or others or cell.newest.stage != "test":
        return ""
    if row["whole"] not in (None, {"folds": len(cell.folds), "clips": cell.counted("num_clips")}):
        return ""
    return ", ".join(f"{system} {number:g}" for system, number in row["numbers"].items())
