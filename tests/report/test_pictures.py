"""What is drawn: the numbers behind the pictures, and that every kind of table can be drawn."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sslam.report.pictures import (
    GREYS,
    class_precisions,
    colors_of,
    confused_most,
    confusion_of,
    degrees_of,
    distinct_events_of,
    draw_by_distinct_events,
    draw_by_polyphony,
    draw_comparison,
    draw_confusion,
    draw_per_class,
)
from sslam.report.results import read_records
from sslam.report.tables import Column, Row, Table, build_table
from tests.report.conftest import made_up_results

ROW = Row("Linear probe", "stage 1")


def table_of(folder: Path) -> Table:
    return build_table(read_records([folder])[0])


def test_by_polyphony__means_over_seeds_and_clips_of_each_degree(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    both = [made_up_results(2.0, seed, clips=200, single_label=False, polyphony=True) for seed in (0, 1)]
    for seed, results in enumerate(both):
        write_run(f"{seed}", results=[results], title="Soundscapes", seed=seed)
    table = table_of(tmp_path)
    column = Column("Soundscapes", "test")
    degrees = degrees_of(table.cells[ROW, column])
    rows = [{row.polyphony: row for row in results.by_polyphony} for results in both]
    assert 0 not in degrees
    assert set(degrees) == (set(rows[0]) | set(rows[1])) - {0}
    mean, sd, chance, clips = degrees[2]
    maps = [row[2].mean_average_precision for row in rows]
    assert mean == pytest.approx(np.mean(maps))
    assert sd == pytest.approx(np.std(maps, ddof=1))
    assert chance == pytest.approx(np.mean([row[2].chance for row in rows]))
    assert clips == round((rows[0][2].num_clips + rows[1][2].num_clips) / 2)
    figure = draw_by_polyphony(table, column)
    assert figure is not None
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert drawn["stage 1"][1] == pytest.approx(100 * mean)
    assert "chance" in drawn


def test_by_polyphony__of_data_without_onsets_is_not_drawn(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a")
    assert draw_by_polyphony(table_of(tmp_path), Column("ESC-50", "test")) is None
    assert draw_by_distinct_events(table_of(tmp_path), Column("ESC-50", "test")) is None


def test_by_distinct_events__has_the_brackets_of_the_paper(write_run: Callable[..., Path], tmp_path: Path) -> None:
    results = made_up_results(2.0, clips=200, single_label=False)
    write_run("a", results=[results], title="Soundscapes")
    table, column = table_of(tmp_path), Column("Soundscapes", "test")
    rows = {row.fewest: row for row in results.by_distinct_events}
    numbers = distinct_events_of(table.cells[ROW, column])
    assert {1, 2} <= set(numbers) == set(rows)
    assert numbers[2][0] == pytest.approx(rows[2].mean_average_precision)
    assert numbers[2][3] == rows[2].num_clips
    figure = draw_by_distinct_events(table, column)
    assert figure is not None
    ticks = [label.get_text().split("\n") for label in figure.axes[0].get_xticklabels()]
    assert ticks[:2] == [["1", str(rows[1].num_clips)], ["2-3", str(rows[2].num_clips)]]


def test_per_class__best_first_with_support_over_the_folds(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folds = [made_up_results(1.0, seed) for seed in (0, 1)]
    for fold, results in enumerate(folds, start=1):
        write_run(f"{fold}", results=[results], title="ESC-50", fold=fold)
    write_run("random", skill=0.0, label="random weights", weights="random")
    table = table_of(tmp_path)
    names, precision_C, support_C = class_precisions(table.cells[ROW, Column("ESC-50", "test")])
    expected_C = np.mean([results.average_precision_C for results in folds], axis=0)
    assert precision_C == pytest.approx(expected_C)
    assert support_C.tolist() == [24] * 5
    axis = draw_per_class(table, "Linear probe", Column("ESC-50", "test")).axes[0]
    order = np.argsort(-expected_C)
    assert [label.get_text() for label in axis.get_yticklabels()] == [f"{names[number]}  (24)" for number in order]
    assert [bar.get_width() for bar in axis.patches] == pytest.approx(100 * expected_C[order])
    assert [line.get_label() for line in axis.lines] == ["random weights"]


def test_per_class__without_support_is_left_out_and_many_are_cut(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    write_run("few", results=[made_up_results(2.0, clips=3, classes=5)], title="few")
    write_run("many", results=[made_up_results(2.0, clips=200, classes=100)], title="many")
    table = table_of(tmp_path)
    _, precision_C, _ = class_precisions(table.cells[ROW, Column("few", "test")])
    assert [math.isnan(value) for value in precision_C] == [False, False, False, True, True]
    (axis,) = draw_per_class(table, "Linear probe", Column("few", "test")).axes
    assert len(axis.patches) == 3
    best, worst = draw_per_class(table, "Linear probe", Column("many", "test")).axes
    assert (len(best.patches), len(worst.patches)) == (30, 30)
    assert best.get_title(loc="left") == "30 best of 100 classes"


def test_confusion__sum_over_folds_and_the_worst_in_words(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folds = [made_up_results(1.0, seed) for seed in (0, 1)]
    for fold, results in enumerate(folds, start=1):
        write_run(f"{fold}", results=[results], title="ESC-50", fold=fold)
    cell = table_of(tmp_path).cells[ROW, Column("ESC-50", "test")]
    confusion_CC = confusion_of(cell)
    assert confusion_CC is not None
    assert folds[0].confusion_CC is not None
    assert folds[1].confusion_CC is not None
    assert (confusion_CC == folds[0].confusion_CC + folds[1].confusion_CC).all()
    wrong_CC = confusion_CC * (1 - np.eye(5, dtype=int))
    true, found = divmod(int(wrong_CC.argmax()), 5)
    assert confused_most(cell)[0] == f"class_{true} as class_{found} ({wrong_CC.max() / 24:.0%})"
    figure = draw_confusion(cell)
    assert figure is not None
    assert figure.axes[0].images[0].get_array().data == pytest.approx(100 * confusion_CC / 24)


def test_confusion__only_where_a_clip_has_one_label(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", results=[made_up_results(1.0, single_label=False)], title="Soundscapes")
    write_run("b", results=[made_up_results(50.0)])
    table = table_of(tmp_path)
    several = table.cells[ROW, Column("Soundscapes", "test")]
    assert draw_confusion(several) is None
    assert confused_most(several) == []
    assert confused_most(table.cells[ROW, Column("ESC-50", "test")]) == []  # nothing is confused


def test_comparison__one_panel_for_each_data_set(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", title="A", skill=0.0, label="random weights", weights="random")
    write_run("b", title="A")
    write_run("c", title="A", method="FineTune")
    write_run("d", title="B", results=[made_up_results(1.0, single_label=False)])
    table = table_of(tmp_path)
    first, second = draw_comparison(table).axes
    assert (first.get_title(loc="left"), first.get_ylabel()) == ("A", "accuracy (%)")
    assert (second.get_title(loc="left"), second.get_ylabel()) == ("B", "mAP (%)")
    shown = [
        100 * table.cells[row, Column("A", "test")].value(table.metrics(table.columns[0])[0]).mean for row in table.rows
    ]
    assert [bar.get_height() for bar in first.patches] == pytest.approx(shown)
    colors = colors_of(table)
    assert colors["random weights"] == GREYS[0]
    assert colors["stage 1"] not in GREYS
