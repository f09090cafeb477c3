"""Finds the YAML files that a command line names; without torch, so that a wrong name is answered at once."""

import difflib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sslam.errors import UsageError, printable

LARGEST_FILE = 1 << 20  # bytes
MOST_NODES = 100_000
SECTIONS = ("trainer", "model", "data", "checkpoint", "progress")
PACKAGE_FOLDER = Path(__file__).resolve().parents[2]


def experiments_folder() -> Path:
    """The YAML files of the project: inside the package after a wheel install, beside ``src`` in a checkout."""
    packaged = PACKAGE_FOLDER / "experiments"
    return packaged if packaged.is_dir() else PACKAGE_FOLDER.parents[1] / "experiments"


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """The choice spelled most like ``word``, or None if none is close; upper and lower case count as one."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.6)
    return by_lower_case[matches[0]] if matches else None


def locate(path: str) -> str:
    """A path as it stands if it exists, else the project's own file if it begins with ``experiments/``."""
    shipped = experiments_folder().parent / path
    if not Path(path).exists() and Path(path).parts[:1] == ("experiments",) and shipped.is_file():
        return str(shipped)
    return path


def missing_file_message(path: str) -> str:
    """Says that a YAML file is missing and names the nearest one in its folder."""
    folder = Path(path).parent
    # As given, as one of the project's own, and as a block that one of these names relative to itself.
    searched = (folder, experiments_folder().parent / folder, experiments_folder() / folder)
    neighbours = [str(folder / found.name) for place in searched for found in sorted(place.glob("*.yaml"))]
    suggestion = nearest(path, neighbours)
    if suggestion is None:
        names = sorted(found.relative_to(experiments_folder().parent) for found in experiments_folder().glob("*.yaml"))
        remedy = f"The project's own are: {', '.join(map(str, names))}."
    else:
        remedy = f"Did you mean {suggestion}?"
    return f"There is no config file {path}. {remedy}"


def read_config_file(path: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: If the file is missing, is not YAML, or is not a mapping of keys.
    """
    if not Path(path).is_file():
        raise UsageError(missing_file_message(path))
    if Path(path).stat().st_size > LARGEST_FILE:
        raise UsageError(f"{path} must be a YAML file of at most {LARGEST_FILE >> 20} MiB. Give a config.")
    try:
        text = Path(path).read_text(encoding="utf-8")
        if size_of_yaml(yaml.compose(text, Loader=yaml.SafeLoader)) > MOST_NODES:
            raise UsageError(f"{path} has aliases that make it endless or huge. Write out what they stand for.")
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}, line {line}: not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is not a YAML text file: {printable(str(error))}") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply. Give a config.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must be a mapping such as 'model: ...', got {type(content).__name__}.")
    if empty := [key for key in SECTIONS if key in content and content[key] is None]:
        raise UsageError(f"{path}: {empty[0]} has nothing below it. Remove the line, or write a setting below it.")
    return content


def size_of_yaml(root: yaml.Node | None) -> float:
    """Values in a document when every alias is written out; infinite if one stands for what it is in."""
    sizes: dict[int, float] = {}

    def size(node: Any) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # until it is known: whoever asks meanwhile is within it
            parts = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
            parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    return size(root)


def composed_files(path: str, within: tuple[str, ...] = ()) -> list[str]:
    """The YAML files that a YAML file builds on, ``compose: [linear_probe.yaml, data/esc50.yaml]``, in merging order.

    Names are relative to the file; a file that is named may itself build on others, which then come before it.

    Raises:
        UsageError: If a file is missing or wrong, builds on itself, or ``compose`` is no list of names.
    """
    names = read_config_file(path).get("compose")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UsageError(f"{path}: compose must be a list of YAML files, relative to this one, got {names!r}.")
    found: list[str] = []
    for name in names or []:
        file = os.path.normpath(Path(path).parent / name)
        if file in (*within, os.path.normpath(path)):
            raise UsageError(f"{path}: compose leads back to {file}. A file cannot build on itself.")
        found += [*composed_files(file, (*within, os.path.normpath(path))), file]
    return list(dict.fromkeys(found))


def experiment_name(files: Sequence[str]) -> str:
    """What a run of these files is called: the first one's name that no later one builds on."""
    name = files[0]
    for file in files[1:]:
        if os.path.normpath(name) in composed_files(file):
            name = file
    return Path(name).stem


def locate_config_files(args: Sequence[str]) -> list[str]:
    """The same arguments with every YAML path found, those after ``--config`` checked, what they compose before them.

    Raises:
        UsageError: See :func:`read_config_file`.
    """
    located: list[str] = []
    for position, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if not equals or not option.startswith("-"):
            option, value = (args[position - 1] if position else ""), arg
        path = locate(value) if value.endswith((".yaml", ".yml")) else value
        # An inline mapping is allowed too: --config "{trainer: {max_steps: 2}}".
        if option in ("-c", "--config") and not value.lstrip().startswith("{") and not value.startswith("-"):
            composed = [argument for file in composed_files(path) for argument in ("--config", file)]
            # Before this option, which is this argument's start or the argument before.
            place = len(located) if equals and arg.startswith("-") else len(located) - 1
            located[place:place] = composed
        located.append(arg.removesuffix(value) + path)
    return located
