"""Records: what is written is read again; what is damaged is named."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callbacks.evaluation_results import score_arrays
from sslam.report.results import (
    DataFacts,
    EvaluationRecord,
    RecordError,
    SplitCounts,
    read_record,
    read_records,
    write_record,
)
from tests.report.conftest import made_up_record, made_up_results


def test_write_record__is_read_again(tmp_path: Path) -> None:
    results = [made_up_results(2.0, single_label=False, polyphony=True)]
    record = made_up_record(results, sha256=None, learning_rate=None, git_commit="abc", config="config.yaml")
    record = replace(record, metrics=record.metrics | {"d_prime": math.inf})
    path = write_record(tmp_path, record, score_arrays(results))
    assert path == tmp_path / "results-test.json"
    read = read_record(path)
    # nan is not equal to itself: the degree 0 has no mAP.
    assert math.isnan(read.by_polyphony[0].mean_average_precision)
    assert repr(read) == repr(record)
    assert {entry.name for entry in tmp_path.iterdir()} == {"results-test.json", "scores-test.npz"}


def test_write_record__nan_is_null_in_json(tmp_path: Path) -> None:
    results = [made_up_results(2.0, single_label=False, polyphony=True)]
    path = write_record(tmp_path, made_up_record(results), score_arrays(results))
    assert "NaN" not in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["by_polyphony"][0]["mean_average_precision"] is None


def test_write_record__scores_of_all_heads(tmp_path: Path) -> None:
    results = [made_up_results(2.0, polyphony=True), made_up_results(2.0, seed=1, polyphony=True)]
    write_record(tmp_path, made_up_record(results, class_names=list("abcde")), score_arrays(results))
    with np.load(tmp_path / "scores-test.npz") as arrays:
        assert set(arrays) == {"scores", "labels", "index", "polyphony", "class_names"}
        assert (arrays["scores"] == np.stack([result.scores_NC for result in results])).all()
        assert (arrays["labels"] == results[0].labels_NC).all()
        assert arrays["index"].tolist() == list(range(60))
        assert arrays["class_names"].tolist() == list("abcde")


def test_score_arrays__have_the_recording_of_each_clip_where_it_is_known() -> None:
    results = [made_up_results(2.0, clips=4)]
    results = [results[0]._replace(index_N=np.array([0, 2, 3, 5]))]  # the others could not be read
    assert "group" not in score_arrays(results)
    assert score_arrays(results, np.array([7, 7, 8, 8, 9, 9]))["group"].tolist() == [7, 8, 8, 9]


def test_write_record__replaces_an_earlier_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [made_up_results(2.0)]
    path = write_record(tmp_path, made_up_record(results), score_arrays(results))
    write_record(tmp_path, made_up_record(results, seed=3), score_arrays(results))
    assert read_record(path).seed == 3

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_record(tmp_path, made_up_record(results, seed=4), score_arrays(results))
    assert read_record(path).seed == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_record__of_several_heads() -> None:
    results = [made_up_results(1.0, seed) for seed in range(3)]
    record = made_up_record(results)
    accuracies = [result.scalars()["accuracy"] for result in results]
    assert record.metrics["accuracy"] == pytest.approx(np.mean(accuracies))
    assert record.spread["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert record.num_heads == 3
    assert record.per_class[1].support == 12
    assert record.per_class[1].average_precision == pytest.approx(
        np.mean([result.average_precision_C[1] for result in results])
    )
    assert record.confusion is not None
    assert np.sum(record.confusion) == 3 * 60
    assert made_up_record(results[:1]).spread == {}


def test_data_facts__title_and_fold() -> None:
    facts = DataFacts("ESC-50", 3, "", {}, 1, 2, 2)
    assert facts.title_and_fold == "ESC-50 fold 3"
    assert replace(facts, fold=None).title_and_fold == "ESC-50"


def test_data_facts__a_title_that_ends_in_a_fold_is_no_fold(write_run: Callable[..., Path]) -> None:
    path = write_run("a", title="animals fold 1") / "results-test.json"
    assert (read_record(path).data.title, read_record(path).data.fold) == ("animals fold 1", None)


@pytest.mark.parametrize(
    ("title", "expected"), [("ESC-50 fold 3", ("ESC-50", 3)), ("SPASS market", ("SPASS market", None))]
)
def test_read_record__of_version_0_1_has_the_fold_in_its_title(
    write_run: Callable[..., Path], title: str, expected: tuple[str, int | None]
) -> None:
    path = write_run("a") / "results-test.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["data"]["fold"]
    record["data"]["title"] = title
    path.write_text(json.dumps(record), encoding="utf-8")
    data = read_record(path).data
    assert (data.title, data.fold) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "is not a results file of format 1 (format_version: Input should be 1, got 99). Eval"),
        ({"seed": "0"}, "(seed: Input should be a valid integer, got '0'). Evaluate the run again"),
        ({"seed": True}, "(seed: Input should be a valid integer, got True)"),
        ({"metrics": {"map": "high"}}, "(metrics.map: Input should be a valid number, got 'high')"),
        ({"metrics": [0.5]}, "(metrics: Input should be an object, got [0.5])"),
        ({"data": "ESC-50"}, "(data: Input should be an object, got 'ESC-50')"),
        ({"checkpoint": {"label": "x"}}, "(checkpoint.weights: Field required)"),
        ({"per_class": [{"name": "dog", "support": 1}]}, "(per_class[0].average_precision: Field required)"),
        ({"per_class": []}, "per_class and confusion must have 5 classes as the data has, got 0, 5"),
        ({"confusion": [[1] * 5] * 4}, "per_class and confusion must have 5 classes as the data has, got 4, 5"),
        ({"confusion": [[1] * 6] * 5}, "per_class and confusion must have 5 classes as the data has, got 5, 6"),
        ({"surprise": 1}, "(surprise: Unexpected keyword argument, got 1)"),
    ],
)
def test_read_record__what_is_wrong_is_named(write_run: Callable[..., Path], change: Any, message: str) -> None:
    path = write_run("a") / "results-test.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(RecordError, match=re.escape(message)) as raised:
        read_record(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"", lambda data: b"\xff\xfe" + data])
def test_read_record__damaged_files(write_run: Callable[..., Path], damage: Any) -> None:
    path = write_run("a") / "results-test.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordError, match="is damaged or cut short .* Evaluate the run again."):
        read_record(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}"])
def test_read_record__other_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "results-test.json").write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match="is not a results file of format 1"):
        read_record(tmp_path / "results-test.json")


def test_read_records__files_folders_and_trees_each_once(write_run: Callable[..., Path]) -> None:
    first = write_run("esc50/late", date="2025-01-02T00:00:00+00:00")
    second = write_run("esc50/early", date="2025-01-01T23:30:00-01:00")
    third = write_run("spass/early", stage="validation", date="2025-01-01T00:00:00+00:00")
    runs, problems = read_records([first / "results-test.json", second, first.parent, third.parent.parent])
    assert [run.path.parent for run in runs] == [third, first, second]  # oldest first, whatever the time zone
    assert problems == []
    assert runs[1].name == "probe_esc50/esc50/late"
    assert runs[1].config is None
    (first / "config.yaml").touch()
    assert runs[1].config == str(first / "config.yaml")


def test_read_records__the_others_are_read_in_spite_of_bad_ones(write_run: Callable[..., Path], tmp_path: Path) -> None:
    good, bad = write_run("good"), write_run("bad")
    (bad / "results-test.json").write_text('{"format_version": 1, "experi', encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    runs, problems = read_records([tmp_path / "nowhere", empty, good.parent])
    assert [run.path.parent for run in runs] == [good]
    assert problems[0] == f"There is no {tmp_path / 'nowhere'}. Pass run folders, or folders of them such as runs/."
    assert problems[1].startswith(f"{empty} holds no results (results-*.json). Evaluate first")
    assert "bad/results-test.json is damaged or cut short" in problems[2]


def test_record__splits_round_trip(write_run: Callable[..., Path]) -> None:
    splits = {"test": SplitCounts(10, 9, 1, 2)}
    read: EvaluationRecord = read_record(write_run("a", splits=splits) / "results-test.json")
    assert read.data.splits == splits
