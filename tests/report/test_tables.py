"""Gathering runs: what is averaged over what, what is set apart, and what the reader is told."""

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslam.report.comparison import Comparison
from sslam.report.results import SplitCounts, read_records
from sslam.report.tables import ACCURACY, MAP, Cell, Column, Metric, Row, Table, Value, build_table
from sslam.report.texts import csv_text, markdown
from sslam.report.texts import origins_markdown as origins
from tests.report.conftest import made_up_results

ESC50 = Column("ESC-50", "test")
STAGE_1 = Row("Linear probe", "stage 1")


def table_of(folder: Path) -> Table:
    runs, problems = read_records([folder])
    assert problems == []
    return build_table(runs)


def accuracies(cell: Cell) -> list[float]:
    return [run.record.metrics["accuracy"] for run in cell.runs]


def test_folds__mean_and_deviation(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for fold in range(1, 6):
        write_run(f"fold{fold}", seed=fold, title="ESC-50", fold=fold)
    table = table_of(tmp_path)
    assert (table.rows, table.columns) == ([STAGE_1], [ESC50])
    cell = table.cells[STAGE_1, ESC50]
    value = table.headline(STAGE_1, ESC50)
    assert value is not None
    assert value.mean == pytest.approx(np.mean(accuracies(cell)))
    assert value.sd == pytest.approx(np.std(accuracies(cell), ddof=1))
    assert value.over == "5 folds"
    assert cell.counted("num_clips") == 5 * 60
    assert cell.counted("listed") == 5 * 400
    assert cell.classes == "5 of 5"
    assert table.notes == []


def test_seeds__mean_and_deviation(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for seed in range(3):
        write_run(f"seed{seed}", results=[made_up_results(2.0, seed)], seed=seed, title="Speech Commands")
    cell = table_of(tmp_path).cells[STAGE_1, Column("Speech Commands", "test")]
    value = cell.value(ACCURACY)
    assert value == (
        pytest.approx(np.mean(accuracies(cell))),
        pytest.approx(np.std(accuracies(cell), ddof=1)),
        "3 seeds",
    )
    assert cell.counted("num_clips") == 60  # the same clips every time


def test_folds_and_seeds__deviation_of_the_folds_means(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for fold in (1, 2, 3):
        for seed in (0, 1):
            results = [made_up_results(2.0, 10 * fold + seed)]
            write_run(f"fold{fold}-{seed}", results=results, seed=seed, title="ESC-50", fold=fold)
    cell = table_of(tmp_path).cells[STAGE_1, ESC50]
    by_fold = [np.mean([record.metrics["accuracy"] for record in records]) for records in cell.by_fold.values()]
    value = cell.value(ACCURACY)
    assert value == (pytest.approx(np.mean(by_fold)), pytest.approx(np.std(by_fold, ddof=1)), "3 folds x 2 seeds")
    assert (cell.folds, cell.seeds, cell.counted("num_clips")) == ([1, 2, 3], [0, 1], 180)


def test_heads__of_one_run(write_run: Callable[..., Path], tmp_path: Path) -> None:
    results = [made_up_results(1.0, seed) for seed in range(3)]
    write_run("one", results=results)
    value = table_of(tmp_path).cells[STAGE_1, ESC50].value(MAP)
    maps = [result.mean_average_precision for result in results]
    assert value == (pytest.approx(np.mean(maps)), pytest.approx(np.std(maps, ddof=1)), "fold 1, 3 heads")
    assert value.text(MAP) == f"{100 * np.mean(maps):.1f} ± {100 * np.std(maps, ddof=1):.1f}"


def test_one_run__has_no_deviation(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("one")
    value = table_of(tmp_path).cells[STAGE_1, ESC50].value(ACCURACY)
    assert value.over == "fold 1, 1 run"
    assert "±" not in value.text(ACCURACY)


def test_same_setting_twice__the_newest_counts_and_is_noted(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("old", skill=0.0, date="2025-01-01T00:00:00+00:00")
    write_run("new", skill=4.0, date="2025-01-02T00:00:00+00:00")
    table = table_of(tmp_path)
    assert [run.record.run_id for run in table.cells[STAGE_1, ESC50].runs] == ["new"]
    assert table.notes == [
        "Linear probe of stage 1 on ESC-50 fold 1 (test, seed 0) was evaluated more than once: probe_esc50/new of "
        "2025-01-02T00:00:00+00:00 counts, not probe_esc50/old."
    ]


def test_two_checkpoints_of_one_name__are_told_apart(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", sha256="a" * 64)
    write_run("b", sha256="b" * 64)
    write_run("c", sha256="b" * 64, weights="teacher")
    names = [row.name for row in table_of(tmp_path).rows]
    assert sorted(names) == [
        f"stage 1 (student, {'a' * 12})",
        f"stage 1 (student, {'b' * 12})",
        f"stage 1 (teacher, {'b' * 12})",
    ]


def test_a_checkpoint_that_was_moved__is_the_same(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", title="ESC-50", fold=1, sha256="a" * 64)
    folder = write_run("b", title="ESC-50", fold=2, sha256="a" * 64)
    file = folder / "results-test.json"
    file.write_text(file.read_text(encoding="utf-8").replace("stage 1.ckpt", "elsewhere/last.ckpt"), encoding="utf-8")
    assert [row.name for row in table_of(tmp_path).rows] == ["stage 1"]


def test_two_experiments_on_the_same_clips__are_two_rows(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for experiment in ("probe_cls", "probe_mean"):
        for fold in (1, 2):
            write_run(f"{experiment}{fold}", experiment=experiment, title="ESC-50", fold=fold)
    table = table_of(tmp_path)
    assert sorted(row.name for row in table.rows) == ["stage 1, probe_cls", "stage 1, probe_mean"]
    assert all(cell.folds == [1, 2] for cell in table.cells.values())
    assert table.notes == []


def test_experiments_of_different_folds__are_gathered_and_noted(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", experiment="first_half", title="ESC-50", fold=1)
    write_run("b", experiment="second_half", title="ESC-50", fold=2)
    table = table_of(tmp_path)
    assert table.cells[STAGE_1, ESC50].folds == [1, 2]
    assert table.notes == ["ESC-50: Linear probe of stage 1 gathers the experiments first_half, second_half."]


def test_rows_on_different_folds__are_noted(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", title="ESC-50", fold=1)
    write_run("b", title="ESC-50", fold=2)
    write_run("c", title="ESC-50", fold=1, label="random weights", weights="random")
    (note,) = table_of(tmp_path).notes
    assert note.startswith("ESC-50: the rows rest on different folds (")
    assert "Linear probe of stage 1: 1 2" in note
    assert "Linear probe of random weights: 1" in note


def test_rows_on_different_numbers_of_clips__are_noted(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", title="SPASS Park", results=[made_up_results(1.0, clips=60)])
    write_run("b", title="SPASS Park", results=[made_up_results(1.0, clips=50)], label="SSLAM")
    (note,) = table_of(tmp_path).notes
    assert note.startswith("SPASS Park: the rows rest on different numbers of clips (")


def test_missing_clips__are_noted(write_run: Callable[..., Path], tmp_path: Path) -> None:
    splits = {"training": SplitCounts(9, 1, 8, 0), "test": SplitCounts(100, 90, 10, 3)}
    write_run("a", title="AudioSet 20K", splits=splits)
    assert table_of(tmp_path).notes == [
        "AudioSet 20K: of 100 listed clips 10 are missing and 3 of those looked at are unreadable."
    ]


def test_order__methods_as_evaluated_random_first_data_by_name(write_run: Callable[..., Path], tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = [
        {"label": "stage 1", "title": "SPASS Park"},
        {"label": "SSLAM", "title": "ESC-50", "fold": 1},
        {"label": "random weights", "weights": "random", "title": "ESC-50", "fold": 1},
        {"label": "SSLAM", "title": "ESC-50", "fold": 1, "method": "FineTune"},
        {"label": "SSLAM", "title": "ESC-50", "fold": 1, "stage": "validation"},
    ]
    for number, run in enumerate(runs):
        write_run(str(number), date=f"2025-01-0{number + 1}T00:00:00+00:00", **run)
    table = table_of(tmp_path)
    assert [(row.method, row.name) for row in table.rows] == [
        ("Linear probe", "random weights"),
        ("Linear probe", "stage 1"),
        ("Linear probe", "SSLAM"),
        ("Fine tune", "SSLAM"),
    ]
    assert [column.name for column in table.columns] == ["ESC-50", "ESC-50 (validation)", "SPASS Park"]
    assert table.headline(table.rows[1], ESC50) is None


def test_best__is_the_highest_of_several(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", skill=0.0, label="random weights", weights="random")
    write_run("b", skill=5.0)
    write_run("c", skill=1.0, method="FineTune")
    table = table_of(tmp_path)
    assert table.best("Linear probe", ESC50) == STAGE_1
    assert table.best("Linear probe", Column("SPASS Park", "test")) is None


def test_headline__accuracy_for_one_label_map_for_several(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a")
    write_run("b", results=[made_up_results(1.0, single_label=False)], title="Soundscapes")
    table = table_of(tmp_path)
    assert [table.metrics(column)[0] for column in table.columns] == [ACCURACY, MAP]


def test_markdown__numbers_notes_and_escapes(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a", skill=0.0, label="random | weights\nof nothing", weights="random")
    write_run("b", skill=5.0)
    text = markdown(Comparison(table_of(tmp_path)))
    lines = text.splitlines()
    assert lines[0].startswith("| method       | weights")
    assert "ESC-50, accuracy (%)" in lines[0]
    assert "random \\| weights of nothing" in lines[2]
    assert "**" not in lines[2]
    assert lines[3].count("**") == 2
    assert len({line.replace("\\|", "").count("|") for line in lines[:4]}) == 1
    assert "Notes" not in text


def test_csv__every_number_carries_its_origin(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for fold in (1, 2):
        write_run(f"fold{fold}", seed=fold, title="ESC-50", fold=fold, sha256="c0ffee" * 10, config=f"{fold}.yaml")
    table = table_of(tmp_path)
    (line,) = csv.DictReader(StringIO(csv_text(Comparison(table))))
    value = table.headline(STAGE_1, ESC50)
    assert value is not None
    assert float(line["accuracy_mean"]) == pytest.approx(value.mean, rel=1e-5)
    assert float(line["accuracy_sd"]) == pytest.approx(value.sd, rel=1e-5)
    expected = {
        "method": "Linear probe",
        "weights": "stage 1",
        "data": "ESC-50",
        "mean_over": "2 folds",
        "folds": "1; 2",
        "seeds": "1; 2",
        "clips": "120",
        "classes": "5",
        "classes_with_support": "5",
        "listed": "800",
        "found": "800",
        "learning_rates": "0.001",
        "checkpoint": "stage 1.ckpt",
        "checkpoint_sha256": "c0ffee" * 10,
        "checkpoint_weights": "student",
        "data_module": "data_modules.ESC50DataModule",
        "runs": "probe_esc50/fold1; probe_esc50/fold2",
        "configs": "1.yaml; 2.yaml",
    }
    assert {key: line[key] for key in expected} == expected
    shown = origins(Comparison(table))
    assert "c0ffeec0ffee " in shown
    assert "1.yaml and 1 more" in shown


def test_numbers__shares_in_per_cent_and_what_is_not_defined() -> None:
    d_prime = Metric("d_prime", "d'", is_share=False)
    nan, infinite = float("nan"), float("inf")
    assert Value(0.6423, 0.0131, "5 folds").text(MAP) == "64.2 ± 1.3"
    assert Value(0.6423, nan, "1 run").text(MAP) == "64.2"
    assert Value(nan, nan, "1 run").text(MAP) == "–"
    assert Value(infinite, nan, "1 run").text(d_prime) == "∞"
    assert Value(1.626, 0.1, "3 seeds").text(d_prime) == "1.63 ± 0.10"
