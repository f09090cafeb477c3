"""Refuses values that the parser lets pass and that fail much later: null as a class's argument, zero accumulation."""

import inspect
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from jsonargparse import Namespace

from sslam.commands.fitting.error_messages import classes_in, find_class
from sslam.errors import UsageError


def admits_none(annotation: Any) -> bool:
    """Whether None is a value of a type annotation; True for one that says nothing."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Literal):
        return any(admits_none(argument) for argument in typing.get_args(annotation))
    return annotation in (None, types.NoneType, Any, object, inspect.Parameter.empty) or isinstance(
        annotation, str | typing.TypeVar
    )


def parameters_of(cls: Any) -> dict[str, inspect.Parameter]:
    """A constructor's parameters with resolved annotations; those of the bases too, to which ``**kwargs`` go."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in reversed(inspect.getmro(cls)) if inspect.isclass(cls) else ():
        constructor = vars(base).get("__init__")
        if constructor is None:
            continue
        try:
            annotations = typing.get_type_hints(constructor)
        except (NameError, TypeError):  # names that exist for a type checker only
            annotations = {}
        for name, parameter in inspect.signature(constructor).parameters.items():
            parameters[name] = parameter.replace(annotation=annotations.get(name, inspect.Parameter.empty))
    return parameters


def misplaced_nulls(value: Any, key: str = "", annotation: Any = None) -> Iterator[tuple[str, str]]:
    """Key and expected type of every null that its constructor does not admit.

    Args:
        value: A parsed config or a part of it.
        key: Of ``value``, as a YAML spells it.
        annotation: Type of ``value``, from which the fields of a dataclass are known.
    """
    if isinstance(value, list):
        for element in value:
            yield from misplaced_nulls(element, key, annotation)
    if not isinstance(value, Namespace):
        return
    cls: Any
    if "class_path" in value:
        cls, prefix = find_class(value.class_path), f"{key}.init_args."
        value = value.get("init_args") or Namespace()
    else:
        cls, prefix = next(filter(is_dataclass, classes_in(annotation)), None), f"{key}." if key else ""
    parameters = parameters_of(cls)
    for name, argument in vars(value).items():
        parameter = parameters.get(name)
        wanted = parameter.annotation if parameter else None
        if argument is None and parameter and parameter.default is not None and not admits_none(wanted):
            shown = str(wanted) if typing.get_args(wanted) else getattr(wanted, "__name__", str(wanted))
            yield f"{prefix}{name}", re.sub(r"[A-Za-z_][\w.]*\.", "", shown)
        yield from misplaced_nulls(argument, f"{prefix}{name}", wanted)


def check_values(config: Namespace) -> None:
    """Refuses what the parser has let pass.

    Args:
        config: Of one command, as parsed.

    Raises:
        UsageError: If a class's argument is null and must not be, or gradients are accumulated over no batch.
    """
    for key, expected in misplaced_nulls(config):
        raise UsageError(f"{key}: expected {expected}, got null.")
    if config.trainer.accumulate_grad_batches < 1:
        raise UsageError(
            f"trainer.accumulate_grad_batches must be at least 1, got {config.trainer.accumulate_grad_batches}."
        )
