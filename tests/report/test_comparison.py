"""What a table decides: differences to the baseline, verdicts, what is in bold, and why something is not known."""

import csv
import math
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from sslam.report.comparison import Comparison, Difference
from sslam.report.intervals import Interval, interval_of, no_interval
from sslam.report.results import read_records
from sslam.report.samples import samples_of
from sslam.report.tables import ACCURACY, MAP, QBE_MAP, Column, Row, build_table
from sslam.report.texts import csv_text, markdown
from tests.report.conftest import made_up_results

Write = Callable[..., Path]
ESC50 = Column("ESC-50", "test")
RANDOM, STAGE_1, SSLAM = (Row("Linear probe", name) for name in ("random weights", "stage 1", "SSLAM"))


def comparison_of(folder: Path) -> Comparison:
    return Comparison(build_table(read_records([folder])[0]))


@pytest.fixture
def three_rows(write_run: Write, tmp_path: Path) -> Comparison:
    """Two folds of random weights and of two equal systems with three heads each."""
    for fold in (1, 2):
        for label, skill in (("random weights", 0.0), ("stage 1", 3.0), ("SSLAM", 3.0)):
            results = [made_up_results(skill, 10 * fold + head) for head in range(3)]
            weights = "random" if skill == 0 else "student"
            write_run(f"{label}{fold}", results=results, label=label, weights=weights, title="ESC-50", fold=fold)
    return comparison_of(tmp_path)


def test_difference__to_the_first_row_is_decided(three_rows: Comparison) -> None:
    difference = three_rows.difference(STAGE_1, ESC50, ACCURACY)
    numbers = [three_rows.table.cells[row, ESC50].value(ACCURACY).mean for row in (STAGE_1, RANDOM)]
    assert difference.value == pytest.approx(numbers[0] - numbers[1])
    assert 0 < difference.interval.low < difference.value < difference.interval.high
    assert difference.verdict == "better"
    assert three_rows.baseline(STAGE_1, ESC50) == RANDOM
    assert three_rows.difference(RANDOM, ESC50, ACCURACY, STAGE_1).verdict == "worse"
    assert math.isnan(three_rows.difference(RANDOM, ESC50, ACCURACY).value)
    interval = three_rows.interval(STAGE_1, ESC50, ACCURACY)
    assert interval.low < numbers[0] < interval.high


def test_equal_systems__are_undecided_and_none_is_in_bold(three_rows: Comparison) -> None:
    for metric in three_rows.table.metrics(ESC50):
        assert three_rows.difference(SSLAM, ESC50, metric, STAGE_1).verdict == "undecided"
    assert not any(three_rows.is_best(row, ESC50) for row in three_rows.table.rows)
    assert "**" not in markdown(three_rows)
    assert three_rows.notes == []


def test_difference__of_accuracies_counts_two_clips_more(three_rows: Comparison) -> None:
    """Bonett and Price; without them intervals of few clips are too narrow."""
    ours, theirs = (samples_of(three_rows.table.cells[row, ESC50]) for row in (STAGE_1, SSLAM))
    for metric, scale, other in ((ACCURACY, "difference of accuracies", "plain"), (MAP, "plain", "share")):
        folds = [ours[fold].by_metric[metric.key].minus(theirs[fold].by_metric[metric.key]) for fold in ours]
        found = three_rows.difference(STAGE_1, ESC50, metric, SSLAM).interval
        assert found == interval_of(folds, scale)  # type: ignore[arg-type]
        assert found != interval_of(folds, other)  # type: ignore[arg-type]


def test_interval__a_metric_that_a_fold_lacks_has_none(write_run: Write, tmp_path: Path) -> None:
    write_run("a", results=[made_up_results(2.0, single_label=False)], title="ESC-50", fold=1)
    write_run("b", results=[made_up_results(2.0)], title="ESC-50", fold=2)
    comparison = comparison_of(tmp_path)
    assert comparison.interval(STAGE_1, ESC50, ACCURACY).reason == "it has no accuracy"


def test_is_best__what_is_better_than_the_runner_up(write_run: Write, tmp_path: Path) -> None:
    write_run("a", skill=0.0, label="random weights", weights="random")
    write_run("b", skill=5.0)
    write_run("c", skill=1.0, method="FineTune")
    comparison = comparison_of(tmp_path)
    assert [comparison.is_best(row, ESC50) for row in comparison.table.rows] == [False, True, False]  # alone is no best


def test_seeds__of_a_fold_are_the_units(write_run: Write, tmp_path: Path) -> None:
    for seed in range(3):
        write_run(f"{seed}", skill=1.0, seed=seed)
        write_run(f"random{seed}", skill=0.0, seed=seed, label="random weights", weights="random")
    comparison = comparison_of(tmp_path)
    assert comparison.difference(STAGE_1, ESC50, ACCURACY).verdict == "better"
    assert comparison.notes == []


def test_recordings__are_resampled_whole(write_run: Write, tmp_path: Path) -> None:
    scores = write_run("a", skill=1.0) / "scores-test.npz"
    alone = comparison_of(tmp_path).interval(STAGE_1, ESC50, ACCURACY)
    arrays = dict(np.load(scores))
    is_right = arrays["scores"][0].argmax(axis=1) == arrays["labels"].argmax(axis=1)
    np.savez(scores, **arrays, group=np.argsort(np.argsort(is_right, kind="stable")) // 6)  # alike in a recording
    grouped = comparison_of(tmp_path).interval(STAGE_1, ESC50, ACCURACY)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_other_clips__are_not_compared(write_run: Write, tmp_path: Path) -> None:
    write_run("a", label="random weights", weights="random", results=[made_up_results(0.0, clips=60)])
    write_run("b", results=[made_up_results(3.0, clips=50)])
    comparison = comparison_of(tmp_path)
    difference = comparison.difference(STAGE_1, ESC50, ACCURACY)
    assert difference.interval.reason == "stage 1 and random weights were evaluated on different clips"
    assert difference.verdict == ""
    assert not comparison.is_best(STAGE_1, ESC50)
    assert comparison.notes == [f"ESC-50: no interval for linear probe of stage 1: {difference.interval.reason}."]


def test_other_folds__are_not_compared(write_run: Write, tmp_path: Path) -> None:
    write_run("a", label="random weights", weights="random", title="ESC-50", fold=1)
    write_run("b", title="ESC-50", fold=2)
    interval = comparison_of(tmp_path).difference(STAGE_1, ESC50, ACCURACY).interval
    assert interval.reason == "stage 1 and random weights were evaluated on different folds"


def test_scores__missing_damaged_or_of_another_run_are_told(write_run: Write, tmp_path: Path) -> None:
    def reason() -> str:
        return comparison_of(tmp_path / "runs" / "a").interval(STAGE_1, ESC50, ACCURACY).reason

    scores = write_run("a", skill=1.0) / "scores-test.npz"
    assert reason() == ""
    other = (write_run("b", skill=2.0) / "scores-test.npz").read_bytes()
    scores.write_bytes(other)
    assert reason().endswith("scores-test.npz is of another evaluation than results-test.json")
    scores.write_bytes(other[:500])
    assert "scores-test.npz cannot be used (" in reason()
    scores.unlink()
    assert reason().startswith("scores-test.npz is not beside ")


def test_one_clip__has_a_number_and_no_interval(write_run: Write, tmp_path: Path) -> None:
    write_run("a", results=[made_up_results(1.0, clips=1)])
    comparison = comparison_of(tmp_path)
    assert comparison.interval(STAGE_1, ESC50, ACCURACY).reason == "there is nothing to resample (1 recording or clip)"
    (line,) = csv.DictReader(StringIO(csv_text(comparison)))
    assert (line["accuracy_low"], line["no_interval"]) == ("", "there is nothing to resample (1 recording or clip)")
    assert "| – " in markdown(comparison)


def test_classes_without_support__are_left_out(write_run: Write, tmp_path: Path) -> None:
    write_run("a", results=[made_up_results(3.0, clips=40, classes=60)])
    comparison = comparison_of(tmp_path)
    assert comparison.interval(STAGE_1, ESC50, MAP).reason == ""
    assert comparison.interval(STAGE_1, ESC50, QBE_MAP).reason == "it has no QbE mAP"


def test_csv__has_intervals_differences_and_verdicts_of_all_metrics(three_rows: Comparison) -> None:
    lines = {line["weights"]: line for line in csv.DictReader(StringIO(csv_text(three_rows)))}
    assert lines["random weights"]["baseline"] == lines["random weights"]["accuracy_verdict"] == ""
    ours = lines["stage 1"]
    assert (ours["baseline"], ours["accuracy_verdict"], ours["no_interval"]) == ("random weights", "better", "")
    for key in ("accuracy", "map", "d_prime", "lwlrap"):
        numbers = [float(ours[f"{key}_{name}"]) for name in ("low", "mean", "high")]
        assert numbers == sorted(numbers)
        bounds = [float(ours[f"{key}_{name}"]) for name in ("difference_low", "difference", "difference_high")]
        assert bounds == sorted(bounds)
    assert ours["qbe_map_low"] == ""


def test_markdown__shows_interval_difference_and_verdict(three_rows: Comparison) -> None:
    lines = [line for line in markdown(three_rows).splitlines() if line.startswith("| ESC-50 ")]
    cells = {line.split("|")[3].strip(): [cell.strip() for cell in line.split("|")[4:-1]] for line in lines}
    number, interval, difference, interval_of_difference, verdict = cells["stage 1"]
    assert cells["random weights"][2:] == ["baseline", "", ""]
    metric = three_rows.table.metrics(ESC50)[0]
    found = three_rows.difference(STAGE_1, ESC50, metric)
    assert (number, interval) == (
        metric.number(three_rows.table.cells[STAGE_1, ESC50].value(metric).mean),
        metric.bounds(three_rows.interval(STAGE_1, ESC50, metric)),
    )
    assert f"{difference} {interval_of_difference} {verdict}" == found.text(metric)


def test_difference__as_text() -> None:
    assert Difference(0.031, Interval(0.01, 0.052)).text(MAP) == "+3.1 [1.0, 5.2] better"
    assert Difference(-0.031, Interval(-0.07, 0.01)).text(MAP) == "−3.1 [−7.0, 1.0] undecided"
    assert Difference(-0.031, Interval(-0.07, -0.01)).text(MAP) == "−3.1 [−7.0, −1.0] worse"
    assert Difference(0.031, no_interval("why")).text(MAP) == "+3.1"
    assert Difference(math.nan, no_interval("why")).text(MAP) == ""
