"""Recordings of one's own that a CSV file lists: labels, groups, folds, and what is wrong with a line."""

import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from data_modules import ClassFolderDataModule
from sslam.audio import AUDIO_EXTENSIONS
from tests.data_modules.official_layouts import RATE, write_noise
from tests.data_modules.own_recordings import files, folds_of, own_module


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[..., Path]:
    """Writes `own/labels.csv` of these lines, and a sound for each file that it names."""

    def write(header: str, *lines: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "own" / "labels.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([header, *lines]) + "\n", encoding=encoding)
        for number, line in enumerate(lines):
            name = line.split(",")[0]
            if name.endswith(".wav") and not name.startswith(".."):
                (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
                samples = np.random.default_rng(number).uniform(-0.5, 0.5, RATE // 10)
                soundfile.write(path.parent / name, samples, RATE)
        return path

    return write


def test_class_folder__a_table_with_several_labels_is_judged_as_such(write_table: Callable[..., Path]) -> None:
    lines = [f"a{number}.wav,{'speech; music' if number % 3 else 'speech'}" for number in range(10)]
    path = write_table("file,label", *lines, encoding="utf-8-sig")
    data = own_module(path, num_folds=3)
    data.setup("test")
    assert data.single_label is False
    assert list(data.class_names) == ["music", "speech"]
    assert data.title_and_fold == "labels fold 1"
    assert own_module(path, fold=None, name="mine").title == "mine"
    labels = torch.cat([batch["labels"] for batch in data.test_dataloader()])
    names = [Path(name).stem for name in files(data, "test")]
    assert labels.tolist() == [[float(int(name[1:]) % 3 > 0), 1.0] for name in names]


def test_class_folder__single_label_may_be_said(write_table: Callable[..., Path]) -> None:
    path = write_table("file,label", *(f"a{number}.wav,{'xy'[number % 2]}" for number in range(10)))
    for given, found in ((None, True), (True, True), (False, False)):
        data = own_module(path, single_label=given)
        data.setup("fit")
        assert data.single_label is found
    path = write_table("file,label", "a.wav,x", "b.wav,x;y")
    with pytest.raises(
        ValueError, match=r"'.*labels.csv', line 3: 'b.wav' has the labels x, y, and single_label is tr"
    ):
        own_module(path, single_label=True).setup("fit")


def test_class_folder__groups_are_known_where_nothing_is_held_out(write_table: Callable[..., Path]) -> None:
    """Whoever divides the clips later, as a probe beside a run does, keeps groups whole."""
    path = write_table(
        "file,label,group", *(f"s{number}.wav,{'xy'[number % 2]},g{number // 5}" for number in range(40))
    )
    data = own_module(path, fold=None)
    data.setup("fit")
    assert data.training_groups is not None
    assert data.training_groups.tolist() == [number // 5 for number in range(40)]


def test_class_folder__groups_of_the_column_and_copies_join(write_table: Callable[..., Path]) -> None:
    lines = [f"s{number}.wav,{'xy'[number % 2]},{'' if number < 6 else f'day{number // 4}'}" for number in range(40)]
    path = write_table("file,label,group", *lines)
    shutil.copy(path.parent / "s7.wav", path.parent / "s39.wav")  # of day 1 and of day 9
    data = own_module(path)
    data.setup("fit")
    folds = folds_of(data)
    days = defaultdict(set)
    for number in range(6, 40):
        days[number // 4].add(folds[f"s{number}.wav"])
    assert all(len(of_day) == 1 for of_day in days.values())
    assert days[1] == days[9]
    # They stay together too where a probe holds some training clips out.
    assert data.training_groups is not None
    members = defaultdict(set)
    for index, group in enumerate(data.training_groups.tolist()):
        members[group].add(Path(data.train_set.path(index)).stem)  # type: ignore[union-attr]
    joined = defaultdict(set)
    for number in range(40):
        if folds[f"s{number}.wav"] != data.fold:
            joined[f"s{number}" if number < 6 else "day1" if number // 4 == 9 else f"day{number // 4}"].add(
                f"s{number}"
            )
    assert sorted(map(sorted, members.values())) == sorted(map(sorted, joined.values()))
    assert len({folds[f"s{number}.wav"] for number in range(6)}) > 1
    data.setup("test")
    dataset: Any = data.test_set  # what is scored says its groups
    groups = defaultdict(set)
    for row, group in enumerate(dataset.groups.tolist()):
        number = int(Path(dataset.path(row)).stem[1:])
        groups[group].add(1 if number in (36, 37, 38, 39) else number // 4 if number >= 6 else f"alone {number}")
    assert len(groups) < len(dataset)
    assert all(len(of_group) == 1 for of_group in groups.values())


def test_class_folder__folds_of_the_column_are_taken_as_they_are(write_table: Callable[..., Path]) -> None:
    lines = [f"s{number}.wav,{'xy'[number % 2]},{10 * (number // 4)}" for number in range(12)]
    path = write_table("file,label,fold", *lines)
    data = own_module(path, fold=20)
    data.setup("test")
    assert data.title_and_fold == "labels fold 20"
    assert files_below(data) == ["s10.wav", "s11.wav", "s8.wav", "s9.wav"]
    with pytest.raises(ValueError, match=r"fold must be one of 0, 10, 20 \(of the column\), or null .* got 1"):
        own_module(path).setup("test")


def files_below(data: ClassFolderDataModule) -> list[str]:
    dataset: Any = data.test_set
    return sorted(Path(dataset.path(index)).name for index in range(len(dataset)))


def test_class_folder__a_column_that_divides_copies_or_groups_is_warned_of(write_table: Callable[..., Path]) -> None:
    lines = [f"s{number}.wav,{'xy'[number % 2]},{1 + number % 3},{'z' if number < 2 else ''}" for number in range(12)]
    path = write_table("file,label,fold,group", *lines)
    shutil.copy(path.parent / "s4.wav", path.parent / "s6.wav")
    with pytest.warns(UserWarning, match="results too good") as said:
        own_module(path).setup("fit")
    assert [str(warning.message) for warning in said] == [
        "labels: groups and copies that lie in more than one fold of the column (2), which makes results too good: "
        "'s0.wav' (fold 1) and 's1.wav' (fold 2), 's4.wav' (fold 2) and 's6.wav' (fold 1). Correct the column, or "
        "leave it out."
    ]


def test_class_folder__missing_files_are_counted_and_named(write_table: Callable[..., Path]) -> None:
    path = write_table("file,label", *(f"s{number}.wav,{'xy'[number % 2]}" for number in range(12)))
    (path.parent / "s5.wav").unlink()
    (path.parent / "s8.wav").rename(path.parent / "s8.aiff")
    text = path.read_text().replace("s8.wav", "s8.aiff")
    path.write_text(text)
    data = own_module(path)
    with pytest.warns(UserWarning, match=r"labels fold 1 is incomplete: \d of the \d+ (training|validation) clips"):
        data.setup("fit")
    assert {Path(bad).name: problem.reason for bad, problem in data.bad_files.problems.items()} == {
        "s5.wav": "no such file",
        "s8.aiff": f"its name does not end in {', '.join(AUDIO_EXTENSIONS)}, or is hidden",
    }
    assert sum(listing.missing for listing in data.listings.values()) == 2


def test_class_folder__files_may_be_bare_names_absolute_or_elsewhere(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    for number in range(10):
        write_noise(audio / f"part{number % 2}" / f"s{number}.wav", level=0.01 * (number + 1))
    table = tmp_path / "tables" / "labels.csv"
    table.parent.mkdir()
    names = [f"s{number}.wav" for number in range(5)]
    names += [str(audio / "part1" / "s5.wav"), "./part0/s6.wav", "part0/../part1/s7.wav", "part0//s8.wav", "s9.wav"]
    rows = [f"{name},{'xy'[number % 2]}" for number, name in enumerate(names)]
    table.write_text("\n".join(["file,label", *rows]))
    data = own_module(table, audio=str(audio))
    data.setup("test")
    assert data.bad_files.problems == {}
    with pytest.raises(ValueError, match=r"line 7: file must be below '.*tables', got '.*s5.wav'. Write it relative"):
        own_module(table).setup("test")


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (
            "name,label",
            ["a.wav,x"],
            r"Labels '.*' lacks the column\(s\) file: its first line must name file, label. Pass",
        ),
        ("file;label", ["a.wav;x"], r"lacks the column\(s\) file, label: its first line must name file, label"),
        ("file,label", [], "lists nothing after its first line"),
        ("file,label", ["a.wav"], "line 2: has too few fields"),
        ("file,label", ["a.wav,x", "b.wav,"], "line 3: 'b.wav' must have a label, or several as first;second, got ''"),
        ("file,label", ["a.wav,x;;y"], "line 2: 'a.wav' must have a label"),
        ("file,label", [",x"], "line 2: file must be below '.*', got ''"),
        ("file,label", ["../a.wav,x"], "line 2: file must be below '.*', got '../a.wav'. Write it relative"),
        ("file,label", ["a.wav,x", "b.wav,y", "./a.wav,y"], "line 4: 'a.wav' is listed in line 2 too. Write one line"),
        ("file,label", ["d/a.wav,x", "a2.wav,y", "d/a.wav,y"], "line 4: 'd/a.wav' is listed in line 2 too"),
        ("file,label,fold", ["a.wav,x,1", "b.wav,y,one"], "line 3: fold must be a whole number, got 'one'. Number the"),
        ("file,label,fold", ["a.wav,x,1", "b.wav,y,"], "line 3: fold must be a whole number, got ''"),
        ("file,label,fold", ["a.wav,x,-1"], "line 2: fold must be a whole number, got '-1'"),
        (
            "file,label",
            ["a.wav,x", "b.wav,x"],
            "has one class, 'x', and an evaluation needs at least 2. Pass --data.root",
        ),
        ("file,label", ["a.wav,x", "b.wav,y"], "num_folds is 5, and the 2 usable recordings make at most 1 folds"),
    ],
)
def test_class_folder__a_wrong_table_is_told_with_line_and_remedy(
    write_table: Callable[..., Path], header: str, lines: list[str], message: str
) -> None:
    path = write_table(header, *lines)
    with pytest.raises(ValueError, match=message):
        own_module(path).setup("fit")


def test_class_folder__a_table_of_another_encoding_is_told(write_table: Callable[..., Path]) -> None:
    path = write_table("file,label", "a.wav,x", "b.wav,Tür", encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"'.*labels.csv', line 3: is not UTF-8 .*Save the file with the encoding UTF-8"
    ):
        own_module(path).setup("fit")
