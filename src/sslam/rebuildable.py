"""Modules that know what they were made with, so that a checkpoint can state it and they can be made again."""

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

from torch import nn


class Rebuildable(nn.Module):
    """Base of the networks and front ends that a checkpoint states by their class and arguments.

    A subclass need do nothing for it: what its constructor was given is kept as it is made.
    """

    _arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _keeping_arguments(cls.__init__)  # type: ignore[method-assign]

    def architecture(self) -> dict[str, Any]:
        """Constructor arguments that build this network again: plain values, as JSON has them.

        Raises:
            ValueError: If an argument is something else, such as another module.
        """
        try:
            arguments: dict[str, Any] = json.loads(json.dumps(self._arguments))
        except TypeError as error:
            raise ValueError(
                f"A checkpoint states the arguments of {type(self).__name__}, which must be numbers, texts, lists and "
                f"dicts of them ({error}). Give it such arguments, or let its architecture() return some that build it."
            ) from error
        return arguments


def _keeping_arguments(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Rebuildable, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        # After the constructors of base classes have kept theirs: those of the class that was asked for count.
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        _, *names = bound.arguments
        self._arguments = {name: bound.arguments[name] for name in names}
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self._arguments |= self._arguments.pop(name)

    return wrapper
