"""`sslam report`: the page, the files, and what it says when something is wrong."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sslam.__main__ import main
from tests.report.conftest import made_up_results


class Page(HTMLParser):
    """Text, tags and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(text)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_report__writes_a_page_that_needs_nothing_else(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in (1, 2):
        write_run(f"random{fold}", 0.0, fold, label="random weights", weights="random", title="ESC-50", fold=fold)
        write_run(f"stage1-{fold}", 3.0, fold, title="ESC-50", fold=fold, config=f"fold{fold}/config.yaml")
    results = [made_up_results(2.0, seed, single_label=False, polyphony=True) for seed in range(3)]
    write_run("scenes", results=results, title="Soundscapes", method="FineTune")
    output = tmp_path / "report"
    assert main(["report", str(tmp_path / "runs"), "--output", str(output)]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert (output / "table.md").read_text(encoding="utf-8").startswith(printed.partition("\nwritten:")[0])
    assert (output / "table.csv").read_text(encoding="utf-8").count("\n") == 4
    page = Page((output / "index.html").read_text(encoding="utf-8"))
    pictures = {path.stem for path in output.glob("*.png")}
    assert pictures == {
        "comparison",
        "classes-esc-50-linear-probe",
        "confusion-esc-50-linear-probe",
        "polyphony-soundscapes",
        "distinct-events-soundscapes",
        "classes-soundscapes-fine-tune",
    }
    assert len(page.links) == len(pictures)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    for number in re.findall(r"\d+\.\d ± \d+\.\d", printed):
        assert number in page.text
    intervals = re.findall(r"\[\d+\.\d, \d+\.\d\]", printed)
    assert len(intervals) == 3  # of two numbers and their difference; the heads of the scenes have labels of their own
    for interval in intervals:
        assert interval in page.text
    assert re.search(r"\+\d+\.\d \[\d+\.\d, \d+\.\d\] better", page.text)
    assert "Published" not in page.text
    for word in ("2 folds", "3 heads", "ESC-50 fold 2", "fold2/config.yaml", "stage 1.ckpt", b"stage 1".hex()[:12]):
        assert word in page.text
    assert "400 of 400 listed clips found" in page.text


def test_report__what_files_say_is_never_markup(write_run: Callable[..., Path], tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & <img src=http://evil> $a_b$"
    names = [f"{number} {evil}" for number in range(5)]
    write_run("a", label=evil, title=evil, class_names=names, config=evil, experiment=evil)
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert all(link.startswith("data:") for link in page.links)
    assert evil in page.text


def test_report__a_bad_file_is_named_and_the_others_reported(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("good")
    (write_run("bad") / "results-test.json").write_text("{", encoding="utf-8")
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    printed, errors = capsys.readouterr()
    assert "| Linear probe | stage 1 |" in printed
    assert re.search(r"^sslam report: .*bad/results-test.json is damaged or cut short", errors)
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert "Files that could not be used" in page.text
    assert "bad/results-test.json is damaged" in page.text


def test_report__names_that_differ_in_special_characters_keep_their_pictures(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    write_run("a", title="My data")
    write_run("b", title="My-data")
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    assert len(list((tmp_path / "report").glob("*.png"))) == 5


def test_report__without_results_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "report")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"sslam report: {tmp_path} holds no results (results-*.json). Evaluate first")
    assert errors[1] == "sslam report: there are no results to report."
    assert not (tmp_path / "report").exists()


def test_report__output_that_cannot_be_written(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run("a")
    (tmp_path / "file").touch()
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "file")]) == 2
    assert re.search(r"sslam report: .*file cannot be written .* Choose another --output.", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "sslam report: the following arguments are required: RUNS. See sslam report --help."),
        (["runs", "--outptu", "x"], "sslam report: unrecognized arguments: --outptu x. See sslam report --help."),
    ],
)
def test_report__wrong_options(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", *args])
    assert capsys.readouterr().err.strip() == message


def test_report__help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["report", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Runs that differ only in fold or seed become mean and standard deviation" in text
    assert "example: sslam report runs --output runs/report" in text
