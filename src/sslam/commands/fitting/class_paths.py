"""Classes that a YAML file names by their import paths."""

import importlib
import inspect
import typing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslam.methods.method import Method

# Where classes for a YAML are found; a class is named by the package that re-exports it.
PACKAGES = (
    "sslam.methods",
    "sslam.networks",
    "sslam.frontends",
    "sslam.transforms",
    "data_modules",
    "callbacks",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
)


def find_class(class_path: str) -> Any:
    """The class behind an import path, or None."""
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def find_method(class_path: str) -> "type[Method]":
    """The method behind an import path; the base, which says what is usual, for any other LightningModule."""
    from sslam.methods.method import Method

    found = find_class(class_path)
    return found if inspect.isclass(found) and issubclass(found, Method) else Method


def classes_in(annotation: Any) -> list[type]:
    """Classes that a type annotation is made of, such as ``Encoder`` in ``list[Encoder] | None``."""
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in classes_in(argument)]


def known_classes(annotation: Any, near: str) -> list[str]:
    """Import paths of the classes that fit an annotation, from our packages and from the package of ``near``."""
    bases = tuple(base for base in classes_in(annotation) if base.__module__ != "builtins")
    paths = []
    for package in dict.fromkeys([near.rpartition(".")[0], *PACKAGES]):
        try:
            members = vars(importlib.import_module(package)).items() if package else ()
        except ImportError:
            continue
        paths += [
            f"{package}.{name}"
            for name, member in members
            if inspect.isclass(member) and issubclass(member, bases or (object,)) and not inspect.isabstract(member)
            if not name.startswith("_")
        ]
    return paths
