"""A table as text: CSV with everything, Markdown with what papers show."""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from io import StringIO

from sslam.audio_files import in_csv
from sslam.report.tables import METRICS, SHORT_HASH, Column, Row, Table


def facts(table: Table, row: Row, column: Column) -> dict[str, str]:
    """Where a number comes from, and all numbers of its cell: a line of `table.csv`. Shares lie in [0, 1]."""
    cell = table.cells[row, column]
    newest = cell.newest
    numbers: dict[str, float] = {}
    for metric in METRICS:
        mean, sd, _ = cell.value(metric)
        numbers |= {f"{metric.key}_mean": mean, f"{metric.key}_sd": sd}
    return {
        "method": row.method,
        "weights": row.name,
        "data": column.data,
        "stage": column.stage,
        **{key: "" if math.isnan(number) else f"{number:.6g}" for key, number in numbers.items()},
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


def _joined(values: Iterable[object]) -> str:
    """Different values, in their order."""
    return "; ".join(dict.fromkeys(map(str, values)))


def all_facts(table: Table) -> list[dict[str, str]]:
    """:func:`facts` of every cell, row by row."""
    places = [(row, column) for row in table.rows for column in table.columns if (row, column) in table.cells]
    return [facts(table, row, column) for row, column in places]


def csv_text(table: Table) -> str:
    """One line for every number of the table."""
    lines = all_facts(table)
    file = StringIO()
    writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: in_csv(value) for key, value in line.items()} for line in lines)
    return file.getvalue()


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


def markdown(table: Table) -> str:
    """The table and the notes, and, of several methods, the same numbers with one line for each set of weights."""
    heads = (f"{column.name}, {table.metrics(column)[0].heading}" for column in table.columns)
    lines = [[row.method, row.name, *(shown(table, row, column) for column in table.columns)] for row in table.rows]
    text = markdown_table([["method", "weights", *heads], *lines])
    text += "\n\nMean ± standard deviation. In bold: the best weights of a method.\n"
    if table.notes:
        text += "\nNotes:\n\n" + "".join(f"- {note}\n" for note in table.notes)
    if table.judgements:
        lines = [
            [name, *(shown(table, Row(method, name), column) for method, column in table.judgements.values())]
            for name in table.names
        ]
        text += f"\nThe same numbers by weights:\n\n{markdown_table([['weights', *table.judgements], *lines])}\n"
    return text


def shown(table: Table, row: Row, column: Column) -> str:
    """`64.2 ± 1.3`, in bold for the best weights of a method; "" where nothing was evaluated."""
    value = table.headline(row, column)
    text = "" if value is None else value.text(table.metrics(column)[0])
    return f"**{text}**" if table.is_best(row, column) else text


def origins_markdown(table: Table) -> str:
    """What the numbers of the table stand on."""
    lines = []
    for line in all_facts(table):
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
