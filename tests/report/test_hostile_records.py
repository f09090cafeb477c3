"""Results files that are none, and names that a drawing or a table could take for more than names."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sslam.__main__ import main
from sslam.report.results import read_records


@pytest.mark.parametrize("kind", ["pipe", "endless", "nested", "infinite"])
def test_read_records__a_file_that_holds_no_results(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "results-test.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("[" * 100_000 if kind == "nested" else '{"epoch": Infinity}')
    runs, problems = read_records([tmp_path])
    assert not runs
    (problem,) = problems
    assert problem.startswith(str(path))
    assert len(problem) < 400


@pytest.mark.filterwarnings("ignore:.*constrained_layout not applied.*")
def test_report__names_with_dollars_and_infinite_numbers(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [r"$\frac{", "$_^$", "=1+1", "\x1b[31mred", "rain"]
    run = write_run("one", class_names=names, label=r"=HYPERLINK $\bad{$", title="$x^")
    text = (run / "results-test.json").read_text()
    (run / "results-test.json").write_text(text.replace('"learning_rate": 0.001', '"learning_rate": Infinity'))
    assert main(["report", str(run), "--output", str(tmp_path / "report")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    with (tmp_path / "report/table.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["weights"].startswith("'=HYPERLINK")


def test_report__a_place_that_cannot_be_written(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Any = write_run("one")
    (tmp_path / "file").touch()
    assert main(["report", str(run), "--output", str(tmp_path / "file/report")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
