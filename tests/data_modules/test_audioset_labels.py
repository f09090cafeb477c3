"""Labels per clip against counting by hand, on a small ontology with a class below two others."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from data_modules.audioset_labels import at_level, labels_per_clip, number_counts, read_ontology
from sslam.__main__ import main
from tests.data_modules.official_layouts import write_audioset

CHILDREN = {"human": ["voice"], "voice": ["speech", "child"], "animal": ["dog"], "dog": ["bark", "child"]}
CLASSES = ["speech", "child", "bark", "dog", "human"]
WAYS = {
    "speech": ("human", "voice", "speech"),
    "child": ("human", "voice", "child"),  # below voice and dog; voice is the first
    "bark": ("animal", "dog", "bark"),
    "dog": ("animal", "dog"),
    "human": ("human",),
}


def write_ontology(path: Path, children: dict[str, list[str]]) -> Path:
    names = {*children, *(child for below in children.values() for child in below)}
    entries = [{"id": name, "child_ids": children.get(name, [])} for name in [*children, *sorted(names - {*children})]]
    path.write_text(json.dumps(entries))
    return path


def test_read_ontology__gives_the_first_of_the_shortest_ways(tmp_path: Path) -> None:
    ways = read_ontology(write_ontology(tmp_path / "ontology.json", CHILDREN), CLASSES)
    assert {name: ways[name] for name in CLASSES} == WAYS


def test_at_level__counts_as_sets_of_classes_do() -> None:
    labels = np.random.default_rng(0).random((200, 5)) < 0.4
    for level in (1, 2, 3):
        distinct = [{WAYS[CLASSES[c]][:level][-1] for c in np.flatnonzero(row)} for row in labels]
        found = at_level(csr_array(labels), CLASSES, WAYS, level)
        assert np.diff(found.indptr).tolist() == [len(names) for names in distinct]
    assert at_level(csr_array(labels), CLASSES, WAYS, 3).nnz == labels.sum()


def test_number_counts__takes_many_together() -> None:
    labels = csr_array(np.tril(np.ones((8, 7)), -1))  # 0 to 7 labels
    assert number_counts(labels) == [1, 1, 1, 1, 1, 3]


def test_labels_per_clip__says_shares_and_means() -> None:
    labels = csr_array(np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]]))
    lines = labels_per_clip(labels, CLASSES, WAYS).splitlines()
    assert lines[0].startswith("4 clips")
    assert lines[2].split() == ["labels", "25.0", "50.0", "25.0", "0.0", "0.0", "2.00"]
    assert lines[3].split() == ["level", "1", "50.0", "50.0", "0.0", "0.0", "0.0", "1.50"]
    assert len(lines) == 6


def test_labels__is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audioset(tmp_path)
    assert main(["data", "labels", str(tmp_path), "--subset", "evaluation"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("2 clips")
    assert printed[2].split()[:2] == ["labels", "100.0"]


def test_labels__says_what_is_wrong_with_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audioset(tmp_path)

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            raise SystemExit(main(["data", "labels", *arguments]))
        return capsys.readouterr().err

    assert "ontology.json" in refused(str(tmp_path), "--ontology", str(tmp_path / "ontology.json"))
    lacking = write_ontology(tmp_path / "other.json", CHILDREN)
    assert "lacks 3 classes of class_labels_indices.csv" in refused(str(tmp_path), "--ontology", str(lacking))
    (tmp_path / "broken.json").write_text('[{"id": 1}]')
    assert "is no list of classes with id and child_ids" in refused(
        str(tmp_path), "--ontology", str(tmp_path / "broken.json")
    )
    assert "FOLDER" in refused(str(tmp_path / "nowhere"))
