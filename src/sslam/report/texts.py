"""A table as text: CSV with everything, Markdown with what papers show."""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from io import StringIO

from sslam.audio_files import in_csv
from sslam.report.comparison import Comparison, Difference
from sslam.report.intervals import no_interval
from sslam.report.tables import METRICS, SHORT_HASH, Column, Metric, Row

NOTHING = no_interval("")


def facts(comparison: Comparison, row: Row, column: Column) -> dict[str, str]:
    """Where a number comes from, and all numbers of its cell: a line of `table.csv`. Shares lie in [0, 1]."""
    table = comparison.table
    cell = table.cells[row, column]
    newest = cell.newest
    baseline = comparison.baseline(row, column)
    return {
        "method": row.method,
        "weights": row.name,
        "data": column.data,
        "stage": column.stage,
        **{key: text for metric in METRICS for key, text in numbers(comparison, row, column, metric).items()},
        "baseline": "" if baseline == row else baseline.name,
        "published": comparison.published(row, column),
        "no_interval": comparison.interval(row, column, table.metrics(column)[0]).reason,
        "mean_over": cell.value(table.metrics(column)[0]).over,
        "folds": _joined(cell.folds),
        "seeds": _joined(cell.seeds),
        "heads": str(newest.num_heads),
        "clips": str(cell.counted("num_clips")),
        "classes": str(newest.data.num_classes),
        "classes_with_support": cell.classes.partition(" ")[0],
        **{count: str(cell.counted(count)) for count in ("listed", "found", "missing", "unreadable")},
        "learning_rates": _joined(f"{run.record.learning_rate:g}" for run in cell.runs if run.record.learning_rate),
        "steps": _joined(run.record.step for run in cell.runs),
        "checkpoint": newest.checkpoint.path or "",
        "checkpoint_sha256": newest.checkpoint.sha256 or "",
        "checkpoint_weights": newest.checkpoint.weights,
        "data_module": newest.data.class_path,
        "runs": _joined(run.name for run in cell.runs),
        "configs": _joined(run.config for run in cell.runs if run.config),
        "versions": _joined(" ".join(filter(None, (run.record.version, run.record.git_commit))) for run in cell.runs),
        "dates": _joined(run.record.date for run in cell.runs),
    }


def numbers(comparison: Comparison, row: Row, column: Column, metric: Metric) -> dict[str, str]:
    """What is known of a metric of a cell; "" for what is not."""
    mean, sd, _ = comparison.table.cells[row, column].value(metric)
    is_known = not math.isnan(mean)
    interval = comparison.interval(row, column, metric) if is_known else NOTHING
    difference = comparison.difference(row, column, metric) if is_known else Difference(math.nan, NOTHING)
    found = {
        "mean": mean,
        "sd": sd,
        "low": interval.low,
        "high": interval.high,
        "difference": difference.value,
        "difference_low": difference.interval.low,
        "difference_high": difference.interval.high,
    }
    texts = {key: "" if math.isnan(number) else f"{number:.6g}" for key, number in found.items()}
    return {f"{metric.key}_{key}": text for key, text in (texts | {"verdict": difference.verdict}).items()}


def _joined(values: Iterable[object]) -> str:
    """Different values, in their order."""
    return "; ".join(dict.fromkeys(map(str, values)))


def all_facts(comparison: Comparison) -> list[dict[str, str]]:
    """:func:`facts` of every cell, row by row."""
    return [facts(comparison, row, column) for row, column in comparison.table.places]


def csv_text(comparison: Comparison) -> str:
    """One line for every number of the table."""
    lines = all_facts(comparison)
    file = StringIO()
    writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: in_csv(value) for key, value in line.items()} for line in lines)
    return file.getvalue()


EXPLANATION = (
    "Intervals: paired bootstrap over clips, by recording where it is known, with what heads, seeds and folds add; of "
    "retrieval over classes. Difference: to the method's first row, on the same clips. Undecided: its interval holds "
    "zero."
)
PUBLISHED = "Published: numbers of the papers for this task and method, not measured here."

PROVENANCE = {
    "method": "method",
    "weights": "weights",
    "checkpoint_sha256": "checkpoint (SHA-256)",
    "data": "data",
    "stage": "split",
    "mean_over": "over",
    "clips": "clips",
    "classes_with_support": "classes with support",
    "classes": "classes",
    "seeds": "seeds",
    "learning_rates": "learning rates",
    "configs": "configs",
}
"""Entries of :func:`facts` that stand below the table, with their headings."""


def markdown(comparison: Comparison) -> str:
    """The table, its intervals and notes, and, of several methods, the numbers by weights."""
    table = comparison.table
    heads = (f"{column.name}, {table.metrics(column)[0].heading}" for column in table.columns)
    lines = [
        [row.method, row.name, *(shown(comparison, row, column) for column in table.columns)] for row in table.rows
    ]
    text = markdown_table([["method", "weights", *heads], *lines])
    text += "\n\nMean ± standard deviation. In bold: decided to be the best weights of a method.\n"
    text += f"\n{intervals_markdown(comparison)}"
    if notes := [*table.notes, *comparison.notes]:
        text += "\nNotes:\n\n" + "".join(f"- {note}\n" for note in notes)
    if table.judgements:
        lines = [
            [name, *(shown(comparison, Row(method, name), column) for method, column in table.judgements.values())]
            for name in table.names
        ]
        text += f"\nThe same numbers by weights:\n\n{markdown_table([['weights', *table.judgements], *lines])}\n"
    return text


def shown(comparison: Comparison, row: Row, column: Column) -> str:
    """`64.2 ± 1.3`, in bold where it is decided to be the best of its method; "" where nothing was evaluated."""
    value = comparison.table.headline(row, column)
    text = "" if value is None else value.text(comparison.table.metrics(column)[0])
    return f"**{text}**" if comparison.is_best(row, column) else text


def intervals_markdown(comparison: Comparison) -> str:
    """A line for each number: its interval, the difference to the baseline, what it decides, and published numbers."""
    table, lines = comparison.table, []
    for row, column in table.places:
        metric = table.metrics(column)[0]
        difference = comparison.difference(row, column, metric)
        is_baseline = comparison.baseline(row, column) == row
        lines.append(
            [
                column.name,
                row.method,
                row.name,
                metric.number(table.cells[row, column].value(metric).mean),
                metric.bounds(comparison.interval(row, column, metric)) or "–",
                "baseline" if is_baseline else metric.signed(difference.value),
                "" if is_baseline else metric.bounds(difference.interval) or "–",
                difference.verdict,
                comparison.published(row, column),
            ]
        )
    heads = ["data", "method", "weights", "number", "95 % interval", "difference", "95 % interval", "verdict"]
    is_published = any(line[-1] for line in lines)
    shown_lines = [[*heads, "published"], *lines] if is_published else [heads, *(line[:-1] for line in lines)]
    return f"{markdown_table(shown_lines)}\n\n{EXPLANATION}" + (f" {PUBLISHED}" if is_published else "") + "\n"


def origins_markdown(comparison: Comparison) -> str:
    """What the numbers of the table stand on."""
    lines = []
    for line in all_facts(comparison):
        configs = line["configs"].split("; ")
        shown = configs[0] if len(configs) == 1 else f"{configs[0]} and {len(configs) - 1} more"
        short = {"checkpoint_sha256": line["checkpoint_sha256"][:SHORT_HASH] or "–", "configs": shown}
        lines.append([(line | short)[key] for key in PROVENANCE])
    return (
        f"What the numbers stand on (more in `table.csv`):\n\n{markdown_table([list(PROVENANCE.values()), *lines])}\n"
    )


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of them the heads, with columns of even width."""
    cells = [[re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    )
