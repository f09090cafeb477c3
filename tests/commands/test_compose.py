"""YAML files that build on others."""

from pathlib import Path

import pytest

from sslam.commands.fitting.config_files import composed_files, experiment_name, locate_config_files
from sslam.errors import UsageError


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_composed_files__come_before_what_builds_on_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        row="compose: [method.yaml, data/set.yaml]\n",
        method="compose: [base.yaml]\n",
        base="seed_everything: 1\n",
        data__set="compose: [../base.yaml]\n",
    )
    names = [Path(file).relative_to(tmp_path).as_posix() for file in composed_files(str(tmp_path / "row.yaml"))]
    assert names == ["base.yaml", "method.yaml", "data/set.yaml"]
    row, method = str(tmp_path / "row.yaml"), str(tmp_path / "method.yaml")
    base, data = str(tmp_path / "base.yaml"), str(tmp_path / "data/set.yaml")
    expected = ["fit", "--config", base, "--config", method, "--config", data, "--config", row, "--x", "1"]
    assert locate_config_files(["fit", "--config", row, "--x", "1"]) == expected
    joined = [*expected[:7], f"--config={row}", "--x", "1"]
    assert locate_config_files(["fit", f"--config={row}", "--x", "1"]) == joined
    assert experiment_name([base, method, data, row, base]) == "row"
    assert experiment_name([base, row.replace("row", "method")]) == "method"
    assert experiment_name([data, method]) == "set"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("compose: base.yaml\n", r"row\.yaml: compose must be a list of YAML files, relative to this one, got 'base"),
        ("compose: [bose.yaml]\n", r"There is no config file .*bose\.yaml\. Did you mean .*base\.yaml\?"),
        ("compose: [back.yaml]\n", r"back\.yaml: compose leads back to .*row\.yaml\. A file cannot build on itself\."),
    ],
)
def test_composed_files__mistakes(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, row=text, base="{}\n", back="compose: [row.yaml]\n")
    with pytest.raises(UsageError, match=message):
        composed_files(str(tmp_path / "row.yaml"))
