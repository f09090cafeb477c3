"""The report as one HTML file that needs nothing else: tables, embedded pictures, and where every number comes from."""

import base64
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

import sslam
from sslam.report import pictures
from sslam.report.comparison import Comparison
from sslam.report.tables import METRICS, SHORT_HASH, Column, Row, Table
from sslam.report.texts import EXPLANATION, PUBLISHED
from sslam.templates import templates_of


class Picture(NamedTuple):
    """A figure with its file name and caption."""

    name: str
    figure: Figure
    caption: str


def write_page(folder: Path, comparison: Comparison, problems: Sequence[str]) -> list[Path]:
    """Write `index.html` and, for other uses, its pictures beside it.

    Args:
        folder: Exists already.
        comparison: Of a table with at least one cell.
        problems: Messages about files that could not be used.

    Returns:
        The files that were written, the page first.
    """
    table = comparison.table
    drawn = {column: draw_column(table, column) for column in table.columns}
    overview = Picture("comparison", pictures.draw_comparison(table), "Bars: means; lines: standard deviations.")
    paths: dict[Picture, Path] = {}
    for picture in chain([overview], *drawn.values()):
        path = folder / f"{picture.name}.png"
        if path in paths.values():  # names of data sets may differ in their special characters only
            path = folder / f"{picture.name}-{len(paths)}.png"
        picture.figure.savefig(path, dpi=130)
        paths[picture] = path

    def embedded(picture: Picture) -> str:
        return f"data:image/png;base64,{base64.b64encode(paths[picture].read_bytes()).decode()}"

    environment = templates_of("sslam.report")
    environment.filters.update(embedded=embedded, listed=listed)
    html = environment.get_template("page.html").render(
        table=table,
        problems=problems,
        comparison=comparison,
        overview=overview,
        pictures=drawn,
        metrics=METRICS,
        Row=Row,
        explanation=EXPLANATION,
        published=PUBLISHED if any(comparison.published(*place) for place in table.places) else "",
        short_hash=SHORT_HASH,
        num_runs=sum(len(cell.runs) for cell in table.cells.values()),
        written=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
        version=sslam.__version__,
    )
    page = folder / "index.html"
    page.write_text(html, encoding="utf-8")
    return [page, *paths.values()]


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *others, last = names
    return " and ".join(filter(None, [", ".join(others), last]))


def draw_column(table: Table, column: Column) -> list[Picture]:
    """The pictures of one data set."""
    drawn = []
    if (figure := pictures.draw_by_polyphony(table, column)) is not None:
        caption = (
            f"{column.name}: mAP among the clips in which so many events sound at once; hollow where these are fewer "
            f"than {pictures.FEW_CLIPS}. Bands: standard deviation over runs; dotted: random scores."
        )
        drawn.append(Picture(file_name("polyphony", column.name), figure, caption))
    if (figure := pictures.draw_by_distinct_events(table, column)) is not None:
        caption = f"{column.name}: mAP among the clips that have so many classes, whether or not these overlap."
        drawn.append(Picture(file_name("distinct-events", column.name), figure, caption))
    for method in table.methods:
        if (best := table.best(method, column)) is None:
            continue
        cell = table.cells[best, column]
        if not cell.newest.per_class:
            continue  # separation has no classes
        caption = (
            f"{column.name}, {method.lower()}: average precision of the classes; in brackets the scored clips (for "
            "retrieval: the examples) that have them. Bars: the best weights; dots: the others."
        )
        name = file_name("classes", column.name, method)
        drawn.append(Picture(name, pictures.draw_per_class(table, method, column), caption))
        if (figure := pictures.draw_confusion(cell)) is not None:
            most = pictures.confused_most(cell)
            caption = f"{column.name}, {method.lower()} of {best.name}: which class is taken for which."
            caption += f" Most often: {listed(most)}." if most else " None is."
            drawn.append(Picture(file_name("confusion", column.name, method), figure, caption))
    return drawn


def file_name(*parts: str) -> str:
    """A name of small letters, digits and hyphens."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)
