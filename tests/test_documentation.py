"""What the documents name is there: files, links, targets of make, commands."""

import inspect
import re
from pathlib import Path

import pytest

from data_modules import LabelledDataModule
from data_modules.base import AudioDataModule
from sslam.methods import SSLAM

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "experiments/README.md",
    "experiments/papers.md",
    "benchmarks/README.md",
    "docs/scaling.md",
]
ALL = pytest.mark.parametrize("document", DOCUMENTS)


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
    commands = {file.stem for file in (ROOT / "src/sslam/commands").iterdir()} | {"validate", "test", "predict"}
    assert set(re.findall(r"(?:^    |`)sslam ([a-z]+)", text, re.M)) <= commands
    targets = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.M))
    assert set(re.findall(r"(?:^    |`)make ([a-z][\w-]*)", text, re.M)) <= targets


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_document__does_not_claim_all_rows_of_the_published_tables(document: str) -> None:
    """Which rows there are is said by tables of files; of other encoders, for one, there are none."""
    text = " ".join((ROOT / document).read_text().split())
    assert not re.search(r"\b(each|every|all|the|per) rows? of (the published )?tables?", text)


def test_readme__says_what_is_set_differently_by_switches_that_exist() -> None:
    section = (ROOT / "README.md").read_text().split("## What is set differently")[1].split("\n## ")[0]
    switches = {
        SSLAM: {"cls_loss_weight", "weight_decay_exempt_1d"},
        LabelledDataModule: {"draw_with_replacement"},
        AudioDataModule: {"random_crop"},
    }
    for of_class, names in switches.items():
        assert names <= {*inspect.signature(of_class).parameters}
        assert names <= {*re.findall(r"`(\w+)`", section)}


def test_readme__is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
