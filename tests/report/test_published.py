"""Published numbers stand beside ours where task and method are the published ones, and nowhere else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sslam.report.comparison import Comparison
from sslam.report.published import published_rows
from sslam.report.results import read_records
from sslam.report.tables import build_table
from sslam.report.texts import PUBLISHED, markdown
from tests.report.conftest import made_up_results

FOLDS = (1, 2, 3, 4, 5)


def comparison_of(folder: Path) -> Comparison:
    return Comparison(build_table(read_records([folder])[0]))


def test_published__beside_the_published_row_only(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for fold in FOLDS:
        for experiment, method in (("esc50_fine_tune", "FineTune"), ("esc50_linear_probe", "LinearProbe")):
            whole = {"results": [made_up_results(2.0, fold, clips=400)], "title": "ESC-50", "fold": fold}
            write_run(f"{experiment}{fold}", experiment=experiment, method=method, **whole)
    comparison = comparison_of(tmp_path)
    found = {row.method: comparison.published(row, column) for row, column in comparison.table.places}
    assert found == {"Fine tune": "EAT 95.9, SSLAM 96.2", "Linear probe": ""}
    text = markdown(comparison)
    assert "| EAT 95.9, SSLAM 96.2 |" in text
    assert PUBLISHED in text
    assert "**" not in text


@pytest.mark.parametrize(
    "changes",
    [{"title": "ESC-10"}, {"experiment": "small_esc50_fine_tune"}, {"stage": "validation"}, {"fold": 4}, {"clips": 80}],
    ids=str,
)
def test_published__not_beside_other_data_recipes_or_splits_or_a_part_of_the_data(
    write_run: Callable[..., Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    for fold in FOLDS:
        origin = {"title": "ESC-50", "fold": fold, "experiment": "esc50_fine_tune", "method": "FineTune"}
        results = [made_up_results(2.0, fold, clips=changes.get("clips", 400))]
        write_run(f"{fold}", results=results, **(origin | {key: changes[key] for key in changes if key != "clips"}))
    comparison = comparison_of(tmp_path)
    assert [comparison.published(row, column) for row, column in comparison.table.places] == [""]
    assert "published" not in markdown(comparison)


@pytest.mark.parametrize(
    ("recipe", "title", "expected"),
    [
        ("audioset_2m_fine_tune", "AudioSet-2M", {"EAT": 48.6, "SSLAM": 50.2}),
        ("speech_commands_fine_tune", "Speech Commands v0.02", {"EAT": 98.3, "SSLAM": 98.1}),
        ("speech_commands_12_fine_tune", "Speech Commands v0.01", {"SSLAM": 98.8}),
        ("spass_linear_probe", "SPASS market", {"MB-UA": 62.8, "SSLAM": 68.5}),
        ("spass_fine_tune", "SPASS market", {"SSLAM": 90.2}),
        ("audioset_20k_linear_probe", "AudioSet-20K", {"MB-UA": 13.9, "SSLAM": 16.9}),
    ],
)
def test_published_rows__are_those_of_the_tables(recipe: str, title: str, expected: dict[str, float]) -> None:
    assert published_rows()[recipe, title]["numbers"] == expected
