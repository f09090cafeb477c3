"""Finds the YAML files that a command line names; without torch, so that a wrong name is answered at once."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import yaml

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


class UsageError(ValueError):
    """A mistake on the command line or in a YAML file; its text is all that the user needs to see."""


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


def check_config_file(path: str) -> None:
    """Refuses what is not a readable YAML mapping.

    Raises:
        UsageError: If the file is missing, is not YAML, or is not a mapping of keys.
    """
    if not Path(path).is_file():
        raise UsageError(missing_file_message(path))
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}, line {line}: not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a YAML text file: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must be a mapping such as 'model: ...', got {type(content).__name__}.")


def locate_config_files(args: Sequence[str]) -> list[str]:
    """The same arguments with every YAML path found, those after ``--config`` checked.

    Raises:
        UsageError: See :func:`check_config_file`.
    """
    located: list[str] = []
    for position, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if not equals or not option.startswith("-"):
            option, value = (args[position - 1] if position else ""), arg
        path = locate(value) if value.endswith((".yaml", ".yml")) else value
        # An inline mapping is allowed too: --config "{trainer: {max_steps: 2}}".
        if option in ("-c", "--config") and not value.lstrip().startswith("{") and not value.startswith("-"):
            check_config_file(path)
        located.append(arg.removesuffix(value) + path)
    return located
