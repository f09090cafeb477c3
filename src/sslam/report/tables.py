"""Runs as a table like those of the paper: data sets beside each other, checkpoints below each other, per method."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sslam.report.intervals import Interval
from sslam.report.results import EvaluationRecord, Run, SplitCounts, deviation

SHORT_HASH = 12


class Metric(NamedTuple):
    """How a metric is shown: a share in per cent with one digit, anything else as it is."""

    key: str
    title: str
    is_share: bool

    @property
    def heading(self) -> str:
        return f"{self.title} (%)" if self.is_share else self.title

    def of(self, record: EvaluationRecord) -> float:
        """The metric of an evaluation; nan where it has none."""
        return record.metrics.get(self.key, math.nan)

    def number(self, value: float) -> str:
        """`64.2` for .642, `–` for nan."""
        if math.isnan(value):
            return "–"
        return f"{100 * value:.1f}" if self.is_share else f"{value:.2f}".replace("inf", "∞")

    def signed(self, value: float) -> str:
        """A difference: `+3.1` for .031."""
        text = self.number(abs(value))
        return "–" if math.isnan(value) else ("−" if value < 0 else "+") + text

    def bounds(self, interval: Interval) -> str:
        """`[61.0, 67.1]`; "" where there is no interval."""
        if math.isnan(interval.low):
            return ""
        return f"[{self._bound(interval.low)}, {self._bound(interval.high)}]"

    def _bound(self, value: float) -> str:
        return f"−{self.number(-value)}" if value < 0 else self.number(value)


ACCURACY = Metric("accuracy", "accuracy", is_share=True)
MAP = Metric("map", "mAP", is_share=True)
QBE_MAP = Metric("qbe_map", "QbE mAP", is_share=True)
MSI = Metric("msi", "MSi in dB", is_share=False)
ONE_SOURCE = Metric("one_source", "1S in dB", is_share=False)
D_PRIME = Metric("d_prime", "d'", is_share=False)
METRICS = (ACCURACY, MAP, D_PRIME, Metric("lwlrap", "lwlrap", is_share=True), QBE_MAP, MSI, ONE_SOURCE)


class Value(NamedTuple):
    """Mean and standard deviation (ddof 1; nan where there is only one) over `over`: `5 folds`, `3 seeds`, ..."""

    mean: float
    sd: float
    over: str

    def text(self, metric: Metric) -> str:
        """`64.2 ± 1.3`."""
        spread = "" if math.isnan(self.sd) else f" ± {metric.number(self.sd)}"
        return metric.number(self.mean) + spread


@dataclass(frozen=True)
class Row:
    """A method and the weights that it started from; `name` tells these apart from those of all other rows."""

    method: str
    name: str


@dataclass(frozen=True)
class Column:
    """A data set and the split that was scored; retrieval in it, whose numbers compare with no others, is one more."""

    data: str
    stage: str
    is_retrieval: bool = False

    @property
    def name(self) -> str:
        name = f"{self.data} retrieval" if self.is_retrieval else self.data
        return name if self.stage == "test" else f"{name} ({self.stage})"


@dataclass(frozen=True)
class Cell:
    """The runs behind one number: of each fold and seed the newest one, oldest first."""

    runs: tuple[Run, ...]

    @property
    def newest(self) -> EvaluationRecord:
        return self.runs[-1].record

    @cached_property
    def by_fold(self) -> dict[int | None, list[EvaluationRecord]]:
        """Records of each fold, in the order of the folds; data without folds has one, None."""
        folds = defaultdict(list)
        for run in sorted(self.runs, key=lambda run: run.record.data.fold or 0):
            folds[run.record.data.fold].append(run.record)
        return dict(folds)

    @property
    def folds(self) -> list[int]:
        return [fold for fold in self.by_fold if fold is not None]

    @property
    def seeds(self) -> list[int]:
        return sorted({run.record.seed for run in self.runs})

    def value(self, metric: Metric) -> Value:
        """Over folds where there are some (each one's mean over seeds), else over seeds, else over a run's heads."""
        by_fold = [[metric.of(record) for record in records] for records in self.by_fold.values()]
        if len(by_fold) > 1:
            means = [float(np.mean(numbers)) for numbers in by_fold]
            repeats = max(map(len, by_fold))
            over = f"{len(means)} folds" + (f" x {repeats} seeds" if repeats > 1 else "")
            return Value(float(np.mean(means)), deviation(means), over)
        (numbers,) = by_fold
        if len(numbers) > 1:
            return Value(float(np.mean(numbers)), deviation(numbers), f"{len(numbers)} seeds")
        spread = self.newest.spread.get(metric.key, math.nan)
        over = "1 run" if math.isnan(spread) else f"{self.newest.num_heads} heads"
        return Value(numbers[0], spread, f"fold {self.folds[0]}, {over}" if self.folds else over)

    @property
    def warnings(self) -> dict[str, list[int]]:
        """What the runs warn of, each thing once, with the folds that it is about."""
        folds: dict[str, list[int]] = {}
        for fold, records in self.by_fold.items():
            for warning in dict.fromkeys(text for record in records for text in record.warnings):
                folds.setdefault(warning, []).extend([] if fold is None else [fold])
        return folds

    def counted(self, count: str) -> int:
        """Sum over the folds of `num_clips`, or of a count of the split that was scored."""
        firsts = [records[0] for records in self.by_fold.values()]
        if count == "num_clips":
            return sum(record.data.num_clips for record in firsts)
        nothing = SplitCounts(0, 0, 0, 0)
        return sum(getattr(record.data.splits.get(record.stage, nothing), count) for record in firsts)

    @property
    def classes(self) -> str:
        """Classes with support and all classes: `50 of 50`, or `48-50 of 50` where folds differ."""
        support = sorted({run.record.data.num_classes_with_support for run in self.runs})
        shown = str(support[0]) if len(support) == 1 else f"{support[0]}-{support[-1]}"
        return f"{shown} of {self.newest.data.num_classes}"


@dataclass(frozen=True)
class Table:
    """Cells by row and column, and what the reader must know of them."""

    rows: list[Row]
    columns: list[Column]
    cells: dict[tuple[Row, Column], Cell]
    notes: list[str]

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(row.method for row in self.rows))

    def rows_of(self, method: str, column: Column | None = None) -> list[Row]:
        """Rows of a method; with a column, those that have a number in it."""
        rows = [row for row in self.rows if row.method == method]
        return rows if column is None else [row for row in rows if (row, column) in self.cells]

    def metrics(self, column: Column) -> list[Metric]:
        """Metrics that a column's records have, the one that papers quote first."""
        cells = [cell for (_, cells_column), cell in self.cells.items() if cells_column == column]
        known = set().union(*(cell.newest.metrics for cell in cells))
        return [metric for metric in METRICS if metric.key in known] or [MAP]

    def headline(self, row: Row, column: Column) -> Value | None:
        """The number of a row and column, in the column's first metric; None where nothing was evaluated."""
        cell = self.cells.get((row, column))
        return None if cell is None else cell.value(self.metrics(column)[0])

    def best(self, method: str, column: Column) -> Row | None:
        """The row of a method with the highest number in a column; None where nothing was evaluated."""

        def number(row: Row) -> float:
            mean = self.cells[row, column].value(self.metrics(column)[0]).mean
            return -math.inf if math.isnan(mean) else mean

        return max(self.rows_of(method, column), key=number, default=None)

    @property
    def places(self) -> list[tuple[Row, Column]]:
        """Rows and columns of the cells, row by row."""
        return [(row, column) for row in self.rows for column in self.columns if (row, column) in self.cells]

    @property
    def names(self) -> list[str]:
        """Names of the weights, over all methods."""
        return list(dict.fromkeys(row.name for row in self.rows))

    @property
    def judgements(self) -> dict[str, tuple[str, Column]]:
        """Methods with the columns in which they have numbers, by heading; empty of one method, where rows say it all.

        They are the columns of a table with one line for each set of weights, as contrastive papers lay theirs out.
        """
        return {
            f"{column.name}, {method.lower()}: {self.metrics(column)[0].heading}": (method, column)
            for method in self.methods
            for column in self.columns
            if len(self.methods) > 1 and self.rows_of(method, column)
        }


def method_name(method: str) -> str:
    """`LinearProbe` as `Linear probe`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", method).capitalize()


def build_table(runs: Sequence[Run]) -> Table:
    """Gather runs that differ only in fold or seed.

    Rows are in the order in which they were first evaluated, random weights first; columns in that of the alphabet.

    Args:
        runs: Oldest first, at least one.
    """
    rows = _rows([run.record for run in runs])
    chosen: dict[tuple[Row, Column], dict[tuple[int | None, int], Run]] = defaultdict(dict)
    notes = []
    for row, run in zip(rows, runs, strict=True):
        record = run.record
        place = row, Column(record.data.title, record.stage, QBE_MAP.key in record.metrics)
        key = record.data.fold, record.seed
        if (older := chosen[place].pop(key, None)) is not None:
            what = f"{row.method} of {row.name} on {record.data.title_and_fold} ({record.stage}, seed {record.seed})"
            notes.append(f"{what} was evaluated more than once: {run.name} of {record.date} counts, not {older.name}.")
        chosen[place][key] = run
    cells = {place: Cell(tuple(by_key.values())) for place, by_key in chosen.items()}
    methods = list(dict.fromkeys(row.method for row in rows))
    random = {row for row, run in zip(rows, runs, strict=True) if run.record.checkpoint.weights == "random"}
    table = Table(
        rows=sorted(dict.fromkeys(rows), key=lambda row: (methods.index(row.method), row not in random)),
        columns=sorted(
            {column for _, column in cells},
            key=lambda column: (column.data.casefold(), column.stage, column.is_retrieval),
        ),
        cells=cells,
        notes=notes,
    )
    notes += [note for column in table.columns for note in _differences(table, column)]
    return table


def _rows(records: Sequence[EvaluationRecord]) -> list[Row]:
    """The row of each record.

    The checkpoint's label is its name. Where two checkpoints share it their hashes are added, and where two experiments
    evaluated the same checkpoint on the same clips with the same seed, the experiments: they differ in something else.
    """
    files, experiments = defaultdict(set), defaultdict(set)
    for record in records:
        identity = record.checkpoint.identity
        files[record.checkpoint.label].add(identity)
        experiments[record.method, identity, record.data.title_and_fold, record.stage, record.seed].add(
            record.experiment
        )
    split = {(method, identity) for (method, identity, *_), names in experiments.items() if len(names) > 1}
    rows = []
    for record in records:
        name, weights, sha256 = record.checkpoint.identity
        if len(files[name]) > 1:
            name += f" ({weights}, {(sha256 or 'no file')[:SHORT_HASH]})"
        if (record.method, record.checkpoint.identity) in split:
            name += f", {record.experiment}"
        rows.append(Row(method_name(record.method), name))
    return rows


def _differences(table: Table, column: Column) -> list[str]:
    """What makes the numbers of a column not quite comparable, and clips that were not there."""
    cells = {row: table.cells[row, column] for row in table.rows if (row, column) in table.cells}
    notes = []
    for what, shown in (
        ("folds", {row: " ".join(map(str, cell.folds)) or "none" for row, cell in cells.items()}),
        ("numbers of clips", {row: str(cell.counted("num_clips")) for row, cell in cells.items()}),
    ):
        if len(set(shown.values())) > 1:
            of_rows = "; ".join(f"{row.method} of {row.name}: {value}" for row, value in shown.items())
            notes.append(f"{column.name}: the rows rest on different {what} ({of_rows}). Compare them with care.")
            break  # other folds have other clips
    for row, cell in cells.items():
        for warning, folds in cell.warnings.items():
            where = f" (fold {', '.join(map(str, folds))})" if folds else ""
            notes.append(f"{column.name}: {row.method} of {row.name}{where}: {warning}")
        gathered = sorted({run.record.experiment for run in cell.runs})
        if len(gathered) > 1:
            notes.append(f"{column.name}: {row.method} of {row.name} gathers the experiments {', '.join(gathered)}.")
    listed, missing, unreadable = (
        max(cell.counted(count) for cell in cells.values()) for count in ("listed", "missing", "unreadable")
    )
    if missing or unreadable:
        notes.append(
            f"{column.name}: of {listed} listed clips {missing} are missing and {unreadable} of those looked at are "
            "unreadable."
        )
    return notes
