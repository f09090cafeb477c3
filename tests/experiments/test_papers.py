"""experiments/papers.md names what exists: classes and functions, files, commands; and says why an item is not here."""

import pydoc
import re

import pytest

from tests.experiments.conftest import EXPERIMENTS, names

TEXT = (EXPERIMENTS / "papers.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| item ")
]


@pytest.mark.parametrize("name", sorted({*re.findall(r"`((?:sslam|data_modules|callbacks)\.[\w.]+)`", TEXT)}))
def test_papers__classes_and_functions_exist(name: str) -> None:
    assert pydoc.locate(name) is not None


def test_papers__files_and_commands_exist() -> None:
    files = {*re.findall(r"`([\w/]+\.yaml)`", TEXT)}
    assert files <= {*names("**/*.yaml")}
    makefile = (EXPERIMENTS.parent / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", TEXT):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for command in re.findall(r"`sslam (\w+)", TEXT):
        commands = EXPERIMENTS.parent / "src/sslam/commands"
        assert (commands / f"{command}.py").is_file() or (commands / command / "__init__.py").is_file(), command
    quoted = {*re.findall(r"`([^`]+)`", TEXT)} - {"experiments/"}
    known = re.compile(r"(sslam|data_modules|callbacks)\.[\w.]+|[\w/]+\.yaml|make [\w-]+|sslam \w+( \w+)?")
    assert [text for text in quoted if not known.fullmatch(text)] == []


def test_papers__every_item_is_in_code_and_in_a_file_or_command() -> None:
    assert len(ROWS) > 60
    for row in ROWS:
        assert len(row) == 4, row
        assert re.search(r"`(sslam|data_modules|callbacks)\.", row[2]), row
        assert re.search(r"`([\w/]+\.yaml|make [\w-]+|sslam [\w ]+)`", row[3]), row


def test_papers__what_is_missing_has_its_reason() -> None:
    for row in ROWS:
        assert ("not here" in row[1]) == ("not here, because" in row[1]), row


def test_papers__every_row_that_can_be_trained_is_named() -> None:
    """No ablation, no kind of separation, is left out."""
    files = {*re.findall(r"`([\w/]+\.yaml)`", TEXT)}
    assert {*names("ablations/*.yaml", "separation/*.yaml")} <= files


@pytest.mark.parametrize(
    ("section", "items"),
    [
        ("SSLAM", ["algorithm 1", *(f"table {n}" for n in range(1, 7)), "appendix B.1", "appendix E"]),
        ("MixIT", ["eq. 1", "eq. 2", "eq. 3"]),
        (
            "Self-supervised",
            ["eq. 1", "eq. 2", *(f"table {n}" for n in range(1, 6)), "figure 1", "figure 2", "appendix A"],
        ),
    ],
)
def test_papers__numbered_items_are_there(section: str, items: list[str]) -> None:
    (part,) = [part for part in TEXT.split("\n## ")[1:] if part.startswith(section)]
    for item in items:
        assert re.search(rf"^\| {re.escape(item)}\b", part, re.M), item
