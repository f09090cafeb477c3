"""Numbers of the papers, shown beside ours where task and method are the published ones."""

from functools import cache
from pathlib import Path

import yaml

from sslam.report.tables import Cell

FILE = Path(__file__).with_name("published.yaml")


@cache
def published_numbers() -> dict[tuple[str, str], dict[str, float]]:
    """Numbers by system, as the papers print them, of every recipe of `sslam evaluate` and title of its data."""
    numbers: dict[tuple[str, str], dict[str, float]] = {}
    for entry in yaml.safe_load(FILE.read_text(encoding="utf-8")):
        for title, by_system in entry["numbers"].items():
            assert (entry["recipe"], title) not in numbers, title
            numbers[entry["recipe"], title] = by_system
    return numbers


@cache
def number_of_folds() -> dict[str, int]:
    """How many folds a published number is the mean of, by recipe, where there are some."""
    return {
        entry["recipe"]: entry["folds"]
        for entry in yaml.safe_load(FILE.read_text(encoding="utf-8"))
        if "folds" in entry
    }


def published_of(cell: Cell) -> str:
    """`EAT 95.9, SSLAM 96.2`, or "" for a cell of another task, method, split, or of some folds only."""
    recipes = {(run.record.experiment, run.record.data.title) for run in cell.runs}
    (recipe, title), *others = recipes
    is_whole = len(cell.folds) == number_of_folds().get(recipe, 0)
    if others or not is_whole or cell.newest.stage != "test":
        return ""
    return ", ".join(f"{system} {number:g}" for system, number in published_numbers().get((recipe, title), {}).items())
