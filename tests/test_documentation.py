"""What the documents name is there: files, links, targets of make, commands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
ALL = pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "experiments/README.md",
        "experiments/papers.md",
        "benchmarks/README.md",
        "docs/scaling.md",
    ],
)


@ALL
def test_document__names_experiments_that_exist(document: str) -> None:
    named = re.findall(r"\bexperiments/[a-z\d_/]+\.yaml", (ROOT / document).read_text())
    assert [file for file in named if not (ROOT / file).is_file()] == []


@ALL
def test_document__links_to_files_and_headings_that_exist(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text()):
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.is_file(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
            assert heading in [title.lower().replace(" ", "-") for title in headings], link


@ALL
def test_document__gives_commands_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    commands = {file.stem for file in (ROOT / "src/sslam/commands").glob("*.py")} | {"validate", "test", "predict"}
    assert set(re.findall(r"(?:^    |`)sslam ([a-z]+)", text, re.M)) <= commands
    targets = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.M))
    assert set(re.findall(r"(?:^    |`)make ([a-z][\w-]*)", text, re.M)) <= targets


@ALL
def test_document__does_not_claim_all_rows_of_the_published_tables(document: str) -> None:
    """Which rows there are is said by tables of files; of other encoders, for one, there are none."""
    text = " ".join((ROOT / document).read_text().split())
    assert not re.search(r"\b(each|every|all|the) rows? of the published tables?", text)


def test_readme__is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
