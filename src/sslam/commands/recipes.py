"""Recipes of `sslam evaluate`: the row of a task and a method, or a user's own YAML file."""

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sslam.commands.fitting.class_paths import find_class, find_method
from sslam.commands.fitting.config_files import composed_files, experiments_folder, locate, nearest
from sslam.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """How to evaluate: YAML files that are merged in their order.

    Args:
        name: Name of the folder of its runs.
        files: Paths of the YAML files.
    """

    name: str
    files: tuple[str, ...]

    @property
    def subcommand(self) -> str:
        """`fit`, or `test` for a method that trains nothing."""
        class_path, _ = self.named_class("model")
        return "fit" if find_method(class_path).needs_training else "test"

    @property
    def chooses_readout(self) -> bool:
        """Whether the method can be given several readouts."""
        class_path, _ = self.named_class("model")
        return "readouts" in inspect.signature(find_method(class_path)).parameters

    def named_class(self, key: str) -> tuple[str, dict[str, Any]]:
        """The path of the class that the files name for ``model`` or ``data``, and the arguments that they state.

        Raises:
            UsageError: If they name none.
        """
        class_path = stated_class(self.files, key)
        if class_path is None:
            raise UsageError(
                f"{self.files[-1]} names no {key}. Give a recipe such as those of experiments/evaluation/."
            )
        return class_path, stated_arguments(self.files, key)

    def variants(self, given: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[Any]]:
        """Arguments that choose a part of the data, with all their values, such as ``{"fold": (1, 2, 3, 4, 5)}``.

        Args:
            given: Values that the command line gives, by argument of the data module, on which they may depend.
        """
        class_path, stated = self.named_class("data")
        data = find_class(class_path)
        last = {name: values[-1] for name, values in given.items()}
        variants: Mapping[str, Sequence[Any]] = data.variants_of(stated | last) if hasattr(data, "variants_of") else {}
        return variants

    def parts(self, given: Mapping[str, Sequence[str]], folds: Sequence[int] | None) -> list[dict[str, Any]]:
        """Arguments of the data module for every part of the data, each of which is evaluated by itself.

        Args:
            given: Values that the command line gives, by argument of the data module.
            folds: Folds that it chooses where the files do not.

        Raises:
            UsageError: If the data has no such part.
        """
        _, stated = self.named_class("data")
        wanted: dict[str, list[Any]] = {}
        for name, values in self.variants(given).items():
            if name not in given and name in stated:
                continue
            by_text = {str(value): value for value in values}
            chosen = given.get(name) or (folds if name == "fold" else None) or values
            if unknown := [str(value) for value in chosen if str(value) not in by_text]:
                raise UsageError(
                    f"{self.name} has no {name} {unknown[0]}. Choose from {', '.join(by_text)}, or leave it out for "
                    "all of them."
                )
            wanted[name] = [by_text[str(value)] for value in chosen]
        return [dict(zip(wanted, values, strict=True)) for values in itertools.product(*wanted.values())]


def _stated(files: Sequence[str], key: str) -> Iterator[dict[str, Any]]:
    """What files that are merged in this order, with what they build on, say under a key."""
    for file in [file for given in files for file in (*composed_files(given), given)]:
        value = yaml.safe_load(Path(file).read_text(encoding="utf-8")).get(key) or {}
        yield {"class_path": value} if isinstance(value, str) else value


def stated_class(files: Sequence[str], key: str) -> str | None:
    """The path of the class that YAML files name for ``model`` or ``data``, if they do."""
    return next((value["class_path"] for value in reversed([*_stated(files, key)]) if "class_path" in value), None)


def stated_arguments(files: Sequence[str], key: str) -> dict[str, Any]:
    """The arguments of the ``model`` or ``data`` that YAML files state."""
    arguments: dict[str, Any] = {}
    for value in _stated(files, key):
        arguments |= value.get("init_args") or {}
    return arguments


def own_recipe(given: str) -> Recipe:
    """The recipe of a YAML file, called as the file is."""
    return Recipe(Path(given).stem, (locate(given),))


def row_of(task: str, method: str) -> Recipe:
    """The row of a task and a method: the method's file and the task's, merged in this order, or a file of its own.

    The rule has exceptions where a published row differs: ``evaluation/TASK_METHOD.yaml``.

    Raises:
        UsageError: If there is no such task or method.
    """
    name = f"{task}_{method}"
    method_file = choose("method", method, methods())
    exception = experiments_folder() / "evaluation" / f"{name}.yaml"
    files = (str(exception),) if exception.is_file() else (method_file, choose("task", task, tasks()))
    return Recipe(name, files)


def methods() -> dict[str, str]:
    """Files of the methods by name."""
    return {file.stem: str(file) for file in experiments_folder().glob("evaluation/methods/*.yaml")}


def tasks() -> dict[str, str]:
    """Files of the labelled data sets by name; that of ``evaluation/tasks/`` where an evaluation needs more."""
    from data_modules import LabelledDataModule

    recordings = {file.stem: str(file) for file in experiments_folder().glob("data/*.yaml")}
    labelled = {
        name: file
        for name, file in recordings.items()
        if issubclass(find_class(Recipe(name, (file,)).named_class("data")[0]), LabelledDataModule)
    }
    return labelled | {file.stem: str(file) for file in experiments_folder().glob("evaluation/tasks/*.yaml")}


def choose(kind: str, name: str, files: Mapping[str, str]) -> str:
    """The file of a name.

    Raises:
        UsageError: If there is none, with the nearest name and all of them.
    """
    if name in files:
        return files[name]
    suggestion = nearest(name, list(files))
    meant = f" Did you mean {suggestion}?" if suggestion else ""
    raise UsageError(f"There is no {kind} {name}.{meant} The {kind}s are: {', '.join(sorted(files))}.")
