"""The report as one HTML file that needs nothing else: tables, embedded pictures, and where every number comes from."""

import base64
import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from matplotlib.figure import Figure

import sslam
from sslam.report import pictures
from sslam.report.results import Run
from sslam.report.tables import METRICS, SHORT_HASH, Column, Row, Table
from sslam.report.texts import weights_heads

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 84rem; margin: 2rem auto;
  padding: 0 1.5rem }
h1 { font-size: 1.9rem; margin-bottom: .2rem }
h2 { margin-top: 2.6rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem }
h3 { margin-top: 2rem }
p, dd, figcaption { max-width: 52rem }
.lead { color: #444; font-size: 1.08rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; font-size: .94rem }
th, td { padding: .38rem .8rem; text-align: left; border-bottom: 1px solid #e4e4e4; vertical-align: top }
thead th { border-bottom: 2px solid #888; vertical-align: bottom }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.text { white-space: nowrap }
th.group { background: #f3f5f8 }
.best { font-weight: 700 }
.small { color: #666; font-size: .82rem; font-weight: 400 }
figure { margin: 1.2rem 0 }
figcaption { color: #444; font-size: .92rem }
img { max-width: 100%; height: auto }
code { font-size: .86em; overflow-wrap: anywhere }
.warning { background: #fff6e0; border-left: 4px solid #e0a020; padding: .5rem 1rem; margin: 1rem 0 }
details { margin: .5rem 0; border: 1px solid #e0e0e0; border-radius: 5px; padding: .5rem .9rem }
summary { cursor: pointer; font-weight: 600 }
details > div { margin-top: 1rem }
details table { margin: .3rem 0 }
details th, details td { padding: .12rem .8rem .12rem 0; font-size: .88rem; border: 0 }
dt { font-weight: 600; margin-top: .5rem }
dd { margin: 0 }
"""

WORDS = {
    "linear probe, fine tune": "Two ways to judge a pre-trained encoder by what a classifier on top of it finds: in a "
    "linear probe the encoder stays as it is, in fine-tuning it learns along.",
    "shallow classifier": "A linear probe with one hidden layer; as published, on embeddings of length 1.",
    "query by example, QbE mAP": "Retrieval without any classifier: pairs of clips are ranked by how near the encoder "
    "places them; 100 % means that all pairs of one class lie nearer than pairs of a clip with the class and one "
    "without. Mean over the classes that have such pairs.",
    "random weights": "An encoder that has not been pre-trained: what any pre-training must beat.",
    "accuracy": "Share of clips whose class was found, where every clip has one class.",
    "mAP": "Mean average precision. Clips are ranked by how sure the model is of a class; 100 % means that all clips "
    "with the class come first. Mean over the classes that have clips.",
    "d'": "How far the scores of clips with and without a class lie apart, in standard deviations: 0 is guessing. "
    "From the mean area under the ROC curve.",
    "lwlrap": "Of each true class of a clip: the share of true classes among those that the model ranks at least as "
    "high. Mean over all labels.",
    "chance": "The mAP that random scores reach on average on the same clips. It rises with the number of sounds, "
    "because clips with more sounds have more labels: compare lines at one place rather than along a line.",
    "± and over": "Standard deviation (with n - 1) over folds, seeds, or heads: classifiers trained with different "
    "seeds on the same frozen encoder.",
    "classes with support": "Classes of which at least one clip was scored (for retrieval: two, and one without the "
    "class). Only these count in mAP.",
}


class Picture(NamedTuple):
    """A figure with its file name and caption."""

    name: str
    figure: Figure
    caption: str


def element(tag: str, *children: Element | str, **attributes: str) -> Element:
    """An HTML element; text and attributes are escaped when it is written. `class_` is the attribute `class`."""
    parent = Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            parent.append(child)
        elif len(parent):
            parent[-1].tail = (parent[-1].tail or "") + child
        else:
            parent.text = (parent.text or "") + child
    return parent


def write_page(folder: Path, table: Table, problems: Sequence[str]) -> list[Path]:
    """Write `index.html` and, for other uses, its pictures beside it.

    Args:
        folder: Exists already.
        table: At least one cell.
        problems: Messages about files that could not be used.

    Returns:
        The files that were written, the page first.
    """
    drawn = {column: draw_column(table, column) for column in table.columns}
    comparison = Picture("comparison", pictures.draw_comparison(table), "Bars: means; lines: standard deviations.")
    paths: dict[Picture, Path] = {}
    for picture in [comparison, *(picture for of_column in drawn.values() for picture in of_column)]:
        path = folder / f"{picture.name}.png"
        if path in paths.values():  # names of data sets may differ in their special characters only
            path = folder / f"{picture.name}-{len(paths)}.png"
        picture.figure.savefig(path, dpi=130)
        paths[picture] = path
    body = element(
        "body",
        element("h1", "Evaluation of audio encoders"),
        element("p", summary(table), class_="lead"),
        *([bullets("Files that could not be used", problems)] if problems else []),
        element("h2", "Results"),
        results_table(table),
        element(
            "p", "Mean ± standard deviation; below it what it is taken over. In bold: the best weights of a method."
        ),
        *weights_section(table),
        *([bullets("Notes", table.notes)] if table.notes else []),
        embedded(comparison, paths),
        element("h2", "All metrics"),
        metrics_table(table),
        element("h2", "Data set by data set"),
    )
    for column, of_column in drawn.items():
        body.append(element("h3", column.name))
        body.extend([embedded(picture, paths) for picture in of_column])
    body.append(element("h2", "What the words mean"))
    body.append(
        element("dl", *(part for word, text in WORDS.items() for part in (element("dt", word), element("dd", text))))
    )
    body.append(element("h2", "Where the numbers come from"))
    body.extend(origins(table))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "Evaluation of audio encoders"),
        element("style", STYLE),
    )
    html = ElementTree.tostring(element("html", head, body, lang="en"), encoding="unicode", method="html")
    page = folder / "index.html"
    page.write_text("<!DOCTYPE html>\n" + html, encoding="utf-8")
    return [page, *paths.values()]


def summary(table: Table) -> str:
    """What was compared, in one sentence or two."""
    runs = sum(len(cell.runs) for cell in table.cells.values())
    today = f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"
    methods = [method.lower() for method in table.methods]
    data = [column.name for column in table.columns]
    number = "1 run" if runs == 1 else f"{runs} runs"
    return (
        f"Compared: {listed(table.names)}. Methods: {listed(methods)}. Data: {listed(data)}. {number}; written {today} "
        f"by sslam {sslam.__version__}."
    )


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def bullets(title: str, lines: Sequence[str]) -> Element:
    """A box of things to know."""
    items = element("ul", *(element("li", line) for line in lines))
    return element("div", element("strong", title), items, class_="warning")


def html_table(heads: Iterable[Element], lines: Iterable[Iterable[Element]]) -> Element:
    """A table with a head. Wide ones scroll by themselves, not the page."""
    head, body = element("thead", element("tr", *heads)), element("tbody", *(element("tr", *line) for line in lines))
    return element("div", element("table", head, body), class_="scroll")


def number_cell(table: Table, row: Row, column: Column, with_over: bool = False) -> Element:
    """The headline number of a row and column, and what it is taken over; empty where nothing was evaluated."""
    value = table.headline(row, column)
    if value is None:
        return element("td", class_="number")
    best = "best" if table.is_best(row, column) else "mean"
    parts = [element("span", value.text(table.metrics(column)[0]), class_=best)]
    if with_over:
        parts += [element("br"), element("span", value.over, class_="small")]
    return element("td", *parts, class_="number")


def results_table(table: Table) -> Element:
    """Data sets beside each other, weights below each other, one group of rows for each method."""
    heads = [element("th", "Weights")]
    for column in table.columns:
        metric = element("span", table.metrics(column)[0].heading, class_="small")
        heads.append(element("th", column.name, element("br"), metric, class_="number"))
    lines = []
    for method in table.methods:
        lines.append([element("th", method, class_="group", colspan=str(len(heads)))])
        for row in table.rows_of(method):
            numbers = [number_cell(table, row, column, with_over=True) for column in table.columns]
            lines.append([element("td", row.name), *numbers])
    return html_table(heads, lines)


def weights_section(table: Table) -> list[Element]:
    """The same numbers with one line for each set of weights; nothing if there is one method only."""
    if not table.judgements:
        return []
    heads = [element("th", "Weights"), *(element("th", head, class_="number") for head in weights_heads(table))]
    lines = [
        [element("td", name), *(number_cell(table, Row(method, name), column) for method, column in table.judgements)]
        for name in table.names
    ]
    return [element("h3", "By weights"), html_table(heads, lines)]


def metrics_table(table: Table) -> Element:
    """One line for each number of the results, with the other metrics and what was scored."""
    heads = [element("th", head) for head in ("Data", "Method", "Weights")]
    for head in (*(metric.heading for metric in METRICS), "over", "clips", "classes with support"):
        heads.append(element("th", head, class_="number"))
    lines = []
    for column in table.columns:
        for row in table.rows:
            if (cell := table.cells.get((row, column))) is None:
                continue
            known = table.metrics(column)
            numbers = [cell.value(metric).text(metric) if metric in known else "" for metric in METRICS]
            numbers += [cell.value(known[0]).over, str(cell.counted("num_clips")), cell.classes]
            texts = [element("td", text, class_="text") for text in (column.name, row.method, row.name)]
            lines.append([*texts, *(element("td", number, class_="number") for number in numbers)])
    return html_table(heads, lines)


def draw_column(table: Table, column: Column) -> list[Picture]:
    """The pictures of one data set."""
    drawn = []
    if (figure := pictures.draw_by_polyphony(table, column)) is not None:
        caption = (
            f"{column.name}: mAP among the clips in which so many events sound at once; hollow where these are fewer "
            f"than {pictures.FEW_CLIPS}. Bands: standard deviation over runs; dotted: random scores."
        )
        drawn.append(Picture(file_name("polyphony", column.name), figure, caption))
    for method in table.methods:
        if (best := table.best(method, column)) is None:
            continue
        cell = table.cells[best, column]
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


def embedded(picture: Picture, paths: dict[Picture, Path]) -> Element:
    """A picture within the page."""
    data = base64.b64encode(paths[picture].read_bytes()).decode()
    image = element("img", src=f"data:image/png;base64,{data}", alt=picture.caption, loading="lazy")
    return element("figure", image, element("figcaption", picture.caption))


def origins(table: Table) -> list[Element]:
    """Every run behind every number, folded up."""
    blocks = []
    for column in table.columns:
        for row in table.rows:
            if (cell := table.cells.get((row, column))) is None:
                continue
            metric = table.metrics(column)[0]
            number = f"{metric.heading} {cell.value(metric).text(metric)}"
            title = element("summary", f"{column.name}, {row.method.lower()} of {row.name}: {number}")
            blocks.append(element("details", title, *(origin(table, column, run) for run in cell.runs)))
    return blocks


def origin(table: Table, column: Column, run: Run) -> Element:
    """One run."""
    record = run.record
    data, checkpoint = record.data, record.checkpoint
    numbers = [
        f"{metric.heading} {metric.number(record.metrics.get(metric.key, math.nan))}"
        for metric in table.metrics(column)
    ]
    counts = [
        f"{split}: {count.found} of {count.listed} listed clips found, {count.missing} missing, "
        f"{count.unreadable} unreadable"
        for split, count in data.splits.items()
    ]
    entries = {
        "Numbers": ", ".join(numbers),
        "Seed, heads": f"{record.seed}, {record.num_heads}",
        "Learning rate": "–" if record.learning_rate is None else f"{record.learning_rate:g}",
        "Epoch, step": f"{record.epoch}, {record.step}",
        "Scored": f"{data.num_clips} clips, {data.num_classes_with_support} of {data.num_classes} classes with support",
        "Files": "; ".join(counts) or "–",
        "Data module": data.class_path,
        "Weights": f"{checkpoint.label} ({checkpoint.weights})",
        "Checkpoint": checkpoint.path or "–",
        "SHA-256": (checkpoint.sha256 or "–")[:SHORT_HASH],
        "Config": run.config or "–",
        "Results": str(run.path),
        "sslam": " ".join(filter(None, [record.version, record.git_commit])),
        "Date": record.date,
    }
    lines = [element("tr", element("th", name), element("td", element("code", text))) for name, text in entries.items()]
    title = element("strong", f"{data.title}: {run.name}")
    return element("div", title, element("div", element("table", *lines), class_="scroll"))
