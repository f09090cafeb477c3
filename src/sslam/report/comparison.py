"""What is decided between the rows of a table: intervals of numbers, differences to the baseline, the best."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from sslam.report.intervals import Interval, Scale, interval_of, no_interval
from sslam.report.published import published_of
from sslam.report.samples import Resampled, SamplesError, samples_of
from sslam.report.tables import ACCURACY, Column, Metric, Row, Table


class Difference(NamedTuple):
    """A number minus that of another row; nan without either."""

    value: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `undecided` where the interval holds zero, or "" where there is no interval."""
        if math.isnan(self.interval.low):
            return ""
        if not self.interval.excludes_zero:
            return "undecided"
        return "better" if self.value > 0 else "worse"

    def text(self, metric: Metric) -> str:
        """`+3.1 [1.0, 5.2] better`."""
        if math.isnan(self.value):
            return ""
        return " ".join(filter(None, (metric.signed(self.value), metric.bounds(self.interval), self.verdict)))


@dataclass(frozen=True)
class Comparison:
    """Intervals and verdicts of a table, computed when they are asked for."""

    table: Table

    @cached_property
    def _samples(self) -> dict[tuple[Row, Column], dict[int | None, Resampled] | str]:
        """Samples of every cell, or why there are none."""
        samples: dict[tuple[Row, Column], dict[int | None, Resampled] | str] = {}
        for place, cell in self.table.cells.items():
            try:
                samples[place] = samples_of(cell)
            except SamplesError as error:
                samples[place] = str(error)
        return samples

    def interval(self, row: Row, column: Column, metric: Metric) -> Interval:
        """The interval of a cell's number."""
        samples = self._samples[row, column]
        if isinstance(samples, str):
            return no_interval(samples)
        folds = [fold.by_metric[metric.key] for fold in samples.values() if metric.key in fold.by_metric]
        if len(folds) < len(samples):
            return no_interval(f"it has no {metric.title}")
        return interval_of(folds, "share" if metric.is_share else "plain")

    def baseline(self, row: Row, column: Column) -> Row:
        """The first row of the same method with a number in the column: random weights where there are any."""
        return self.table.rows_of(row.method, column)[0]

    def difference(self, row: Row, column: Column, metric: Metric, other: Row | None = None) -> Difference:
        """A row's number minus that of another, by default of the :meth:`baseline`, on the same clips."""
        other = other or self.baseline(row, column)
        if other == row:
            return Difference(math.nan, no_interval(""))
        values = [self.table.cells[which, column].value(metric).mean for which in (row, other)]
        return Difference(values[0] - values[1], self._paired_interval(row, other, column, metric))

    def _paired_interval(self, row: Row, other: Row, column: Column, metric: Metric) -> Interval:
        ours, theirs = self._samples[row, column], self._samples[other, column]
        for which, samples in ((row, ours), (other, theirs)):
            if isinstance(samples, str) or any(metric.key not in fold.by_metric for fold in samples.values()):
                return no_interval(f"{which.name} has no interval")
        assert not isinstance(ours, str)
        assert not isinstance(theirs, str)
        if ours.keys() != theirs.keys():
            return no_interval(f"{row.name} and {other.name} were evaluated on different folds")
        if any(ours[fold].clips != theirs[fold].clips for fold in ours):
            return no_interval(f"{row.name} and {other.name} were evaluated on different clips")
        folds = [ours[fold].by_metric[metric.key].minus(theirs[fold].by_metric[metric.key]) for fold in ours]
        scale: Scale = "difference of accuracies" if metric == ACCURACY else "plain"
        return interval_of(folds, scale)

    def is_best(self, row: Row, column: Column) -> bool:
        """Whether a row's number is decided to be the best of its method in a column: better than the runner-up's."""
        metric = self.table.metrics(column)[0]
        numbers = {
            each: self.table.cells[each, column].value(metric).mean for each in self.table.rows_of(row.method, column)
        }
        ranked = sorted((each for each in numbers if not math.isnan(numbers[each])), key=numbers.__getitem__)
        if len(ranked) < 2 or ranked[-1] != row:
            return False
        return self.difference(row, column, metric, ranked[-2]).verdict == "better"

    def published(self, row: Row, column: Column) -> str:
        """The published numbers of the same task and method: `EAT 95.9, SSLAM 96.2`; "" where there are none."""
        return published_of(self.table.cells[row, column])

    @property
    def notes(self) -> list[str]:
        """Why numbers and differences have no intervals."""
        notes = []
        for column in self.table.columns:
            metric = self.table.metrics(column)[0]
            for row in [row for row, other in self.table.places if other == column]:
                reason = self.interval(row, column, metric).reason
                reason = reason or self.difference(row, column, metric).interval.reason
                if reason:
                    notes.append(f"{column.name}: no interval for {row.method.lower()} of {row.name}: {reason}.")
        return notes
