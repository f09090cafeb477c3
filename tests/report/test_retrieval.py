"""Retrieval beside classification: columns of its own, and a table by weights as contrastive papers have it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.evaluation_results import make_record, score_arrays
from sslam.commands.report import main
from sslam.metrics import RetrievalMetrics, RetrievalResults
from sslam.report.comparison import Comparison
from sslam.report.results import (
    CheckpointFacts,
    read_record,
    read_records,
    write_record,
)
from sslam.report.tables import QBE_MAP, Column, Row, build_table
from sslam.report.texts import all_facts, markdown

RETRIEVAL = Column("AudioSet-2M", "test", is_retrieval=True)
CLASSIFICATION = Column("AudioSet-2M", "test")


def made_up_retrieval(spread: float, clips: int = 40, classes: int = 5) -> RetrievalResults:
    """Embeddings that lie the nearer to those of their class, the smaller the spread."""
    random = torch.Generator().manual_seed(0)
    labels = torch.eye(classes)[torch.arange(clips) % (classes - 1)]  # the last one has no clip
    metrics = RetrievalMetrics(classes, classes)
    metrics.update(labels + spread * torch.randn(clips, classes, generator=random), labels, torch.arange(clips))
    return metrics.compute()


@pytest.fixture
def write_retrieval(tmp_path: Path) -> Callable[..., Path]:
    """Writes the record of one retrieval into a run folder."""

    def write(name: str, spread: float, label: str, **changes: Any) -> Path:
        results = made_up_retrieval(spread)
        origin = {
            "experiment": "audioset_query_by_example",
            "run_id": name,
            "method": "QueryByExample",
            "stage": "test",
            "epoch": 0,
            "step": 0,
            "seed": 0,
            "checkpoint": CheckpointFacts(label, "student", f"{label}.ckpt", label.encode().hex()),
        }
        names = [f"class_{number}" for number in range(5)]
        record = make_record(
            results, names, "AudioSet-2M", None, "data_modules.AudioSetDataModule", {}, **(origin | changes)
        )
        return write_record(tmp_path / "runs" / name, record, score_arrays(results))

    return write


@pytest.fixture
def runs(write_run: Callable[..., Path], write_retrieval: Callable[..., Path], tmp_path: Path) -> Path:
    """Log-mel and a joint model in retrieval; a shallow classifier of the latter and of a third one."""
    write_retrieval("a", 2.0, "log-mel")
    write_retrieval("b", 0.5, "joint")
    for name, label, skill in (("c", "joint", 3.0), ("d", "similarity", 1.0)):
        sha256 = label.encode().hex()
        title, method = "AudioSet-2M", "ShallowClassifier"
        write_run(name, skill, label=label, sha256=sha256, title=title, method=method, experiment="shallow")
    return tmp_path / "runs"


def test_record__of_retrieval_is_read_again(write_retrieval: Callable[..., Path]) -> None:
    results = made_up_retrieval(1.0)
    record = read_record(write_retrieval("a", 1.0, "joint"))
    assert record.metrics == {"qbe_map": results.mean_average_precision, "qbe_chance": results.chance}
    assert (record.data.num_clips, record.data.num_classes, record.data.num_classes_with_support) == (40, 5, 4)
    assert [score.support for score in record.per_class] == [10, 10, 10, 10, 0]
    assert np.isnan(record.per_class[4].average_precision)
    assert record.per_class[2].average_precision == results.average_precision_C[2]
    assert (record.spread, record.by_polyphony, record.confusion, record.num_heads) == ({}, [], None, 1)


def test_build_table__retrieval_has_a_column_of_its_own(runs: Path) -> None:
    table = build_table(read_records([runs])[0])
    assert table.columns == [CLASSIFICATION, RETRIEVAL]
    assert RETRIEVAL.name == "AudioSet-2M retrieval"
    assert Column("ESC-50", "validation", is_retrieval=True).name == "ESC-50 retrieval (validation)"
    assert table.metrics(RETRIEVAL) == [QBE_MAP]
    assert QBE_MAP not in table.metrics(CLASSIFICATION)
    assert set(table.methods) == {"Query by example", "Shallow classifier"}
    assert table.best("Query by example", RETRIEVAL) == Row("Query by example", "joint")
    assert table.notes == []
    assert "AudioSet-2M retrieval, QbE mAP (%)" in markdown(Comparison(table))
    lines = {(line["method"], line["weights"]): line for line in all_facts(Comparison(table))}
    joint = made_up_retrieval(0.5).mean_average_precision
    assert lines["Query by example", "joint"]["qbe_map_mean"] == f"{joint:.6g}"
    assert lines["Query by example", "joint"]["map_mean"] == ""
    assert lines["Shallow classifier", "joint"]["qbe_map_mean"] == ""


def test_by_weights__one_line_has_the_numbers_of_all_methods(runs: Path) -> None:
    table = build_table(read_records([runs])[0])
    heads = ["AudioSet-2M retrieval, query by example: QbE mAP (%)", "AudioSet-2M, shallow classifier: accuracy (%)"]
    assert sorted(table.judgements) == sorted(heads)
    text = markdown(Comparison(table)).partition("The same numbers by weights:")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    cells = {name: {head: numbers[place] for place, head in enumerate(rows[0][1:])} for name, *numbers in rows[2:]}
    assert set(cells) == {"log-mel", "joint", "similarity"}
    joint = made_up_retrieval(0.5).mean_average_precision
    assert cells["joint"][heads[0]] == f"**{100 * joint:.1f}**"
    assert cells["log-mel"][heads[1]] == ""
    assert cells["similarity"][heads[0]] == ""
    (line,) = (line for line in text.splitlines() if line.startswith("| joint"))
    assert line.count("**") == 4  # the best in both


def test_by_weights__of_one_method_there_is_none(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("a")
    table = build_table(read_records([tmp_path])[0])
    assert table.judgements == {}
    assert "by weights" not in markdown(Comparison(table))


def test_report__shows_both_tables(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--output", str(tmp_path / "report")]) == 0
    assert "The same numbers by weights:" in capsys.readouterr().out
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert "By weights" in page
    assert "AudioSet-2M retrieval, query by example: QbE mAP (%)" in page
    assert "The same numbers by weights:" in (tmp_path / "report/table.md").read_text(encoding="utf-8")
    pictures = {path.name for path in (tmp_path / "report").glob("*.png")}
    assert "classes-audioset-2m-retrieval-query-by-example.png" in pictures
