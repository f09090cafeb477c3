"""Who may import whom: methods and data modules the library, callbacks methods and library, commands all of it.

Imports are read from the sources, so that one inside a function or under TYPE_CHECKING counts like any other.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Part: what it must not import. A part is a package or module by its import path; the longest one that fits counts.
FORBIDDEN = {
    "sslam": ("sslam.commands", "sslam.methods", "data_modules", "callbacks"),  # the library
    "sslam.methods": ("sslam.commands", "sslam.report", "data_modules", "callbacks"),
    "sslam.commands": (),
    "sslam.__main__": (),
    "callbacks": ("sslam.commands", "data_modules"),
    "data_modules": ("sslam.commands", "sslam.methods", "sslam.report", "callbacks"),
}


def is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and import path of everything that a source imports; a name that is imported from a module counts as one."""
    own_package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = own_package[: len(own_package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a source imports against the rule."""
    part = max((part for part in FORBIDDEN if is_within(module, part)), key=len)
    return [
        f"{module}, line {line}, imports {imported}"
        for line, imported in imported_modules(source, module, is_package)
        if any(is_within(imported, forbidden) for forbidden in FORBIDDEN[part])
    ]


def sources() -> Iterator[tuple[Path, str]]:
    for folder, root in (("src/sslam", "src"), ("callbacks", ""), ("data_modules", "")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT / root).with_suffix("").parts)
            yield path, name.removesuffix(".__init__")


def test_dependency_rule() -> None:
    found = list(sources())
    assert {name for _, name in found} >= {
        "sslam",
        "sslam.__main__",
        "sslam.methods.sslam",
        "callbacks",
        "data_modules",
    }
    broken = [
        violation
        for path, name in found
        for violation in violations(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sslam.audio", "from sslam.commands.command import run"),
        ("sslam.audio", "from sslam import commands"),
        ("sslam.audio", "from . import commands"),
        ("sslam.networks.cnn14", "from ..methods import SSLAM"),
        ("sslam.checkpoints.loading", "def load():\n    import sslam.methods.sslam as method"),
        ("sslam.report.page", "if TYPE_CHECKING:\n    from callbacks import Throughput"),
        ("sslam.losses.mixit", "import importlib\nimportlib.import_module('data_modules.base')"),
        ("sslam.methods.sslam", "from sslam.report.results import EvaluationRecord"),
        ("sslam.methods.sslam", "import data_modules"),
        ("callbacks.throughput", "from sslam.commands import fit"),
        ("callbacks.throughput", "from data_modules.base import AudioDataModule"),
        ("data_modules.base", "try:\n    import callbacks.throughput\nexcept ImportError:\n    pass"),
    ],
)
def test_violations__are_found(module: str, source: str) -> None:
    (violation,) = violations(source, module)
    assert violation.startswith(f"{module}, line ")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sslam.commands.fit", "from callbacks import TrainingProgress\nfrom sslam.methods import SSLAM"),
        ("sslam.methods.sslam", "from sslam.networks import AudioViT\nfrom sslam.methods.method import Method"),
        (
            "callbacks.evaluation_results",
            "from sslam.methods import SSLAM\nfrom sslam.report.results import write_record",
        ),
        ("data_modules.base", "from sslam.audio import decode_audio\nfrom .listing import Listing"),
        ("sslam.audio", "from sslam.errors import UsageError  # not sslam.commands"),
    ],
)
def test_violations__only_those(module: str, source: str) -> None:
    assert violations(source, module) == []
