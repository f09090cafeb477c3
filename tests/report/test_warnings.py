"""What runs warn of stands below the table, once for all folds."""

from collections.abc import Callable
from pathlib import Path

from sslam.report.results import read_record, read_records
from sslam.report.tables import build_table

EDGE = "the best learning rate, 0.03, is the highest of the probe's grid. Add higher ones."


def test_notes__warnings_of_folds_are_gathered(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for fold, warnings in ((1, []), (2, [EDGE]), (3, [EDGE])):
        write_run(f"fold{fold}", title="ESC-50", fold=fold, warnings=warnings, readout="statistics")
    write_run("scenes", title="Scenes", warnings=[EDGE])
    runs, problems = read_records([tmp_path / "runs"])
    assert problems == []
    assert build_table(runs).notes == [
        f"ESC-50: Linear probe of stage 1 (fold 2, 3): {EDGE}",
        f"Scenes: Linear probe of stage 1: {EDGE}",
    ]
    record = read_record(tmp_path / "runs/fold2/results-test.json")
    assert (record.warnings, record.readout) == ([EDGE], "statistics")


def test_record__without_readout_and_warnings_is_still_read(write_run: Callable[..., Path]) -> None:
    path = write_run("old") / "results-test.json"
    text = path.read_text()
    for line in (' "readout": null,\n', ' "warnings": [],\n'):
        assert line in text
        text = text.replace(line, "")
    path.write_text(text)
    assert read_record(path).readout is None
