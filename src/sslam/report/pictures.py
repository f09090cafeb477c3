"""Pictures of a table: comparison of the weights, mAP by number of events, classes, confusions.

Drawn on matplotlib figures of their own, without pyplot's global state. Shape letters: C classes.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sslam.report.results import DistinctEventsScore, EvaluationRecord, PolyphonyScore, deviation
from sslam.report.tables import MAP, Cell, Column, Table

GREYS = ("#9a9a9a", "0.45", "0.30", "0.15")
COLORS = ("#2b6cb0", "#e07a1f", "#2f8f5b", "#b03a6f", "#7a5bb5", "#8a6d3b", "#1f9aa8", "#c43c35")
INK = "#333333"
MAX_BARS = 60  # more classes are shown as the best and the worst ones
FEW_CLIPS = 20  # fewer make an mAP that chance decides
MAX_NUMBERS = 15  # more classes leave no room for numbers in a confusion matrix


def colors_of(table: Table) -> dict[str, str]:
    """A color for the weights of each name, the same in all pictures; grey for random ones."""
    random = {row.name for (row, _), cell in table.cells.items() if cell.newest.checkpoint.weights == "random"}
    colors, greys = cycle(COLORS), cycle(GREYS)
    return {name: next(greys if name in random else colors) for name in table.names}


def _style(axis: Axes, title: str, grid: Literal["x", "y"] = "y") -> None:
    axis.set_title(title, loc="left", fontsize=10.5, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, alpha=0.3, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=9)


def draw_comparison(table: Table) -> Figure:
    """One panel for each data set: the number of every row, grouped by method, with standard deviations."""
    colors = colors_of(table)
    width = min(3, len(table.columns))
    height = -(-len(table.columns) // width)
    bars = max(len({row for row in table.rows if (row, column) in table.cells}) for column in table.columns)
    panel_width = max(3.2, 1.0 + 0.5 * bars)
    figure = Figure(figsize=(max(5.5, panel_width * width), 3.3 * height + 0.5), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False).flatten()
    for axis, column in zip(axes, table.columns, strict=False):
        metric = table.metrics(column)[0]
        position, centres, tops, bottoms = 0.0, {}, [0.0], [0.0]
        for method in table.methods:
            rows = table.rows_of(method, column)
            if not rows:
                continue
            centres[method] = position + (len(rows) - 1) / 2
            for row in rows:
                value = table.cells[row, column].value(metric)
                unit = 100 if metric.is_share else 1
                mean, sd = unit * value.mean, 0 if math.isnan(value.sd) else unit * value.sd
                axis.bar(position, mean, 0.82, color=colors[row.name])
                if sd:
                    axis.errorbar(position, mean, sd, color=INK, capsize=3, linewidth=1)
                axis.text(position, mean + sd, f"{mean:.1f}", ha="center", va="bottom", fontsize=8.5, color=INK)
                tops.append(mean + sd)
                bottoms.append(mean - sd)
                position += 1
            position += 0.7
        axis.set_ylabel(metric.heading, fontsize=9, color=INK)
        axis.set_xticks(list(centres.values()), list(centres), fontsize=9.5)
        axis.set_ylim(1.12 * min(bottoms), 1.12 * max(tops) or 1)
        axis.set_xlim(-0.9, position - 0.8 if position > 2.5 else 1.6)
        _style(axis, column.name)
    for axis in axes[len(table.columns) :]:
        axis.set_visible(False)
    handles = [Patch(color=colors[name], label=name) for name in table.names]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


EventsScore = PolyphonyScore | DistinctEventsScore
Numbers = dict[int, tuple[float, float, float, int]]
"""By number of events: mean and deviation of the mAP over the runs, chance, and clips."""


def degrees_of(cell: Cell) -> Numbers:
    """Of each degree of polyphony with events."""
    return _numbers(cell, lambda record: [(score.polyphony, score) for score in record.by_polyphony])


def distinct_events_of(cell: Cell) -> Numbers:
    """Of each bracket of distinct events, by its smallest number."""
    return _numbers(cell, lambda record: [(score.fewest, score) for score in record.by_distinct_events])


def _numbers(cell: Cell, scores_of: Callable[[EvaluationRecord], Sequence[tuple[int, EventsScore]]]) -> Numbers:
    scores = defaultdict(list)
    for records in cell.by_fold.values():
        for record in records:
            for number, score in scores_of(record):
                if number > 0 and not math.isnan(score.mean_average_precision):
                    scores[number].append((score, score.num_clips / len(records)))
    return {
        degree: (
            float(np.mean([score.mean_average_precision for score, _ in found])),
            deviation([score.mean_average_precision for score, _ in found]) if len(found) > 1 else 0.0,
            float(np.mean([score.chance for score, _ in found])),
            round(sum(clips for _, clips in found)),
        )
        for degree, found in sorted(scores.items())
    }


def draw_by_polyphony(table: Table, column: Column) -> Figure | None:
    """mAP over the number of events that sound at once, one line for each row; None where onsets are not known."""
    return _draw_lines(table, column, degrees_of, "events that sound at once", {})


def draw_by_distinct_events(table: Table, column: Column) -> Figure | None:
    """mAP over the number of classes of a clip (SSLAM, table 3); None where every clip has one."""
    brackets = {
        score.fewest: f"{score.fewest}-{score.most}" if score.most else f"{score.fewest}+"
        for (_, where), cell in table.cells.items()
        for score in cell.newest.by_distinct_events
        if where == column and score.fewest != score.most
    }
    return _draw_lines(table, column, distinct_events_of, "distinct events in a clip", brackets)


def _draw_lines(
    table: Table, column: Column, numbers_of: Callable[[Cell], Numbers], what: str, names: dict[int, str]
) -> Figure | None:
    """mAP over numbers of events, where these have `names` by them; None where there are none."""
    colors = colors_of(table)
    lines = {
        row: degrees for row in table.rows if (cell := table.cells.get((row, column))) and (degrees := numbers_of(cell))
    }
    if not lines:
        return None
    methods = [method for method in table.methods if any(row.method == method for row in lines)]
    figure = Figure(figsize=(1.2 + 5.0 * len(methods), 4.3), layout="constrained")
    axes = figure.subplots(1, len(methods), squeeze=False, sharey=True)[0]
    for axis, method in zip(axes, methods, strict=True):
        shown = {row: degrees for row, degrees in lines.items() if row.method == method}
        clips: dict[int, int] = {}
        for row, degrees in shown.items():
            mean, sd, _, _ = (100 * np.array(numbers) for numbers in zip(*degrees.values(), strict=True))
            axis.fill_between(list(degrees), mean - sd, mean + sd, color=colors[row.name], alpha=0.15, linewidth=0)
            axis.plot(list(degrees), mean, color=colors[row.name], linewidth=1.8, label=row.name)
            few = [numbers[3] < FEW_CLIPS for numbers in degrees.values()]
            faces = ["white" if is_few else colors[row.name] for is_few in few]
            axis.scatter(list(degrees), mean, 34, c=faces, edgecolors=colors[row.name], linewidths=1.5, zorder=3)
            clips |= {degree: numbers[3] for degree, numbers in degrees.items()}
        longest = max(shown.values(), key=len)
        chance = [100 * numbers[2] for numbers in longest.values()]
        axis.plot(list(longest), chance, color=INK, linestyle=":", linewidth=1.2, label="chance")
        axis.set_xticks(sorted(clips), [f"{names.get(n, n)}\n{clips[n]}" for n in sorted(clips)])
        axis.set_xlabel(f"{what}, and number of clips", fontsize=9.5, color=INK)
        axis.yaxis.set_major_locator(MaxNLocator(8))
        _style(axis, method)
    axes[0].set_ylabel(MAP.heading, fontsize=9.5, color=INK)
    axes[0].set_ylim(0, min(102, axes[0].get_ylim()[1]))
    axes[0].legend(fontsize=9, frameon=False)
    return figure


def comparable(cell: Cell) -> list[EvaluationRecord]:
    """The cell's records that have the same classes as the newest one, in the order of the folds."""
    classes = [score.name for score in cell.newest.per_class]
    records = [record for records in cell.by_fold.values() for record in records]
    return [record for record in records if [score.name for score in record.per_class] == classes]


def class_precisions(cell: Cell) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """Names, mean AP over the runs (nan without support) and number of scored clips of the classes."""
    records = comparable(cell)
    precisions = np.array([[score.average_precision for score in record.per_class] for record in records])
    support_of = {record.data.fold: [score.support for score in record.per_class] for record in records}
    names = [score.name for score in records[0].per_class]
    mean_C = np.ma.masked_invalid(precisions).mean(axis=0).filled(math.nan)
    return names, mean_C, np.sum(list(support_of.values()), axis=0)


def draw_per_class(table: Table, method: str, column: Column) -> Figure:
    """Average precision of each class as a bar for the best weights, with a dot for each of the others, best first."""
    colors = colors_of(table)
    best = table.best(method, column)
    assert best is not None
    scores = {row: class_precisions(table.cells[row, column]) for row in table.rows_of(method, column)}
    names, precision_C, support_C = scores.pop(best)
    others = {row: other_C for row, (other_names, other_C, _) in scores.items() if other_names == names}
    order = [int(number) for number in np.argsort(-precision_C, kind="stable") if not math.isnan(precision_C[number])]
    panels = {f"{len(order)} classes": order}
    if len(order) > MAX_BARS:
        half = MAX_BARS // 2
        panels = {f"{half} best of {len(order)} classes": order[:half], f"{half} worst": order[-half:]}
    longest = max(map(len, panels.values()))
    figure = Figure(figsize=(7.5 * len(panels), 1.4 + 0.2 * max(4, longest)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, shown) in zip(axes, panels.items(), strict=True):
        places = np.arange(len(shown))
        axis.barh(places, 100 * precision_C[shown], 0.74, color=colors[best.name], alpha=0.75, label=best.name)
        for row, other_C in others.items():
            axis.plot(100 * other_C[shown], places, "o", ms=5, color=colors[row.name], label=row.name, mec="white")
        axis.set_yticks(places, [f"{shorten(names[number])}  ({support_C[number]})" for number in shown])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(0, 100)
        axis.set_xlabel("average precision (%)", fontsize=9.5, color=INK)
        _style(axis, title, grid="x")
        axis.tick_params(axis="y", labelsize=8, length=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def shorten(name: str, length: int = 32) -> str:
    """A class name that leaves room for the picture. Its dollar signs are no formulas."""
    return (name if len(name) <= length else name[: length - 1] + "…").replace("$", r"\$")


def confusion_of(cell: Cell) -> NDArray[np.int64] | None:
    """Sum (C, C) over the runs, rows true classes, columns classes found; None for clips with several labels."""
    confusions = [record.confusion for record in comparable(cell) if record.confusion is not None]
    return np.sum(confusions, axis=0) if confusions else None


def draw_confusion(cell: Cell) -> Figure | None:
    """Share of each class's clips (rows) in which each class is found (columns); None without one label per clip."""
    confusion_CC = confusion_of(cell)
    if confusion_CC is None:
        return None
    names = [shorten(score.name) for score in cell.newest.per_class]
    share_CC = 100 * confusion_CC / np.maximum(confusion_CC.sum(axis=1, keepdims=True), 1)
    size = 3.2 + max(2.0, 0.19 * len(names) if len(names) > MAX_NUMBERS else 0.42 * len(names))
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(share_CC, cmap="Blues", norm=PowerNorm(0.5, 0, 100))  # rare confusions are to be seen
    if len(names) <= MAX_NUMBERS:
        for true, found in zip(*np.nonzero(share_CC >= 0.5), strict=True):
            color = "white" if share_CC[true, found] > 35 else INK
            axis.text(found, true, f"{share_CC[true, found]:.0f}", ha="center", va="center", fontsize=8, color=color)
    font = 9 if len(names) <= MAX_NUMBERS else 7 if len(names) <= MAX_BARS else 4
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=font)
    axis.set_yticks(range(len(names)), names, fontsize=font)
    axis.set_xlabel("class found", fontsize=9.5, color=INK)
    axis.set_ylabel("true class", fontsize=9.5, color=INK)
    axis.tick_params(length=0, colors=INK)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, label="share of the true class's clips (%)", shrink=0.6, pad=0.02)
    return figure


def confused_most(cell: Cell, count: int = 5) -> list[str]:
    """The most frequent confusions in words: `rain as sea_waves (30 %)`."""
    confusion_CC = confusion_of(cell)
    if confusion_CC is None:
        return []
    names = [score.name for score in cell.newest.per_class]
    share_CC = confusion_CC / np.maximum(confusion_CC.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(share_CC, 0)
    pairs = [divmod(int(place), len(names)) for place in np.argsort(-share_CC, axis=None, kind="stable")[:count]]
    return [
        f"{names[true]} as {names[found]} ({share_CC[true, found]:.0%})"
        for true, found in pairs
        if share_CC[true, found]
    ]
