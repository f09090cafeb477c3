"""What a run of an evaluation was made from, so that finished ones are known to be those that are asked for."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from sslam.atomic_write import write_whole
from sslam.commands.fitting.config_files import composed_files, locate, read_config_file
from sslam.errors import UsageError

NAME = "made_from.json"
YAML = (".yaml", ".yml")


def made_from(
    weights: str, recipe_files: Sequence[str], options: Mapping[str, str], more: Sequence[str]
) -> dict[str, str]:
    """Digests of the files, and the options, of a run.

    Args:
        weights: A file, or an address of the Hub at a commit, which is always the same. A YAML file counts with those
            that it names.
        recipe_files: YAML files, which count with those that they compose and name.
        options: Options of this run and their values.
        more: Options of every run; of YAML files the contents count, too.
    """
    # Beside the recipe's own digest, which runs of earlier versions state alone.
    given = [*recipe_files, weights, *(word.rpartition("=")[2] for word in more)]
    yaml_files = [locate(word) for word in given if word.endswith(YAML)]
    named = dict.fromkeys(name for file in yaml_files if Path(file).is_file() for name in named_files(file))
    recipe = [file for given in recipe_files for file in (*composed_files(given), given)]
    chosen = {
        name: value for name, value in options.items() if name not in ("--trainer.default_root_dir", "--ckpt_path")
    }
    return {
        "checkpoint": _digest(weights) if Path(weights).is_file() else weights,
        "recipe": hashlib.sha256("".join(map(_digest, recipe)).encode()).hexdigest(),
        "options": json.dumps(chosen, sort_keys=True),
        "more options": " ".join(more),
        "named files": hashlib.sha256("".join(map(_digest, named)).encode()).hexdigest(),
    }


def named_files(path: str, within: tuple[str, ...] = ()) -> list[str]:
    """A YAML file and all that it composes, or names as a value, relative to itself; and theirs.

    Args:
        path: The file.
        within: Files that name it, which are not gone through again.
    """
    found = [path]
    for name in _yaml_names(path, *_size_and_time(path)):
        file = os.path.normpath(Path(path).parent / name)
        if Path(file).is_file() and file not in (*within, path):
            found += named_files(file, (*within, path))
    return found


@lru_cache
def _yaml_names(path: str, size: int, changed_ns: int) -> tuple[str, ...]:
    values: list[object] = [read_config_file(path)]
    names = []
    while values:
        value = values.pop()
        if isinstance(value, Mapping):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str) and value.endswith(YAML):
            names.append(value)
    return tuple(names)


def _size_and_time(file: str) -> tuple[int, int]:
    status = Path(file).stat()
    return status.st_size, status.st_mtime_ns


def _digest(file: str) -> str:
    return _digest_at(file, *_size_and_time(file))


@lru_cache
def _digest_at(file: str, size: int, changed_ns: int) -> str:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_same(folder: Path, now: Mapping[str, str], remedy: str = "Choose another --run_id") -> None:
    """Refuse a folder whose run was made from something else; one that has no run, or an older one, is passed.

    Raises:
        UsageError: Names what differs.
    """
    path = folder / NAME
    has_begun = any(folder.glob("results-*.json")) or any(folder.glob("checkpoints/*.ckpt"))
    if not (path.is_file() and has_begun):  # one that failed at once is done again, as it is asked for now
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        before.setdefault("named files", now["named files"])  # which runs of earlier versions do not state
        different = [
            f"{name} was {_short(before[name])}, is {_short(now[name])}" for name in now if before[name] != now[name]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged. Remove {folder}, and the run is done again.") from error
    if different:
        raise UsageError(
            f"The run in {folder} was made from something else: {'; '.join(different)}. {remedy}, or "
            "remove the folder to have it done again."
        )


def keep(folder: Path, now: Mapping[str, str]) -> None:
    """Note what a run is made from, before it begins."""
    text = json.dumps(now, indent=1) + "\n"
    write_whole(folder / NAME, lambda partial: partial.write_text(text, encoding="utf-8"))


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 and value.isalnum() else repr(value)
