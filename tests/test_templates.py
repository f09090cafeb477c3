"""Templates: what they escape, and that nothing is left out in silence."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from sslam.templates import templates_of


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "package_of_templates"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("page.html", "page.md"):
        (folder / name).write_text("{% if true %}\n{{ value }}\n{% endif %}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_templates_of__html_escapes_and_markdown_does_not(package: str) -> None:
    templates = templates_of(package)
    assert templates.get_template("page.html").render(value="a < b & c") == "a &lt; b &amp; c\n"
    assert templates.get_template("page.md").render(value="a < b & c") == "a < b & c\n"


def test_templates_of__a_value_that_is_not_given_is_an_error(package: str) -> None:
    with pytest.raises(UndefinedError, match="value"):
        templates_of(package).get_template("page.md").render()
