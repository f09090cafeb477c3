"""Ranges of arguments: a value outside, or nan, is refused by its name. None stands for one that is left out."""

import operator
from collections.abc import Callable
from typing import Literal


def at_least(least: float, /, **values: float | None) -> None:
    """``at_least(1, epochs=epochs, batch_size=batch_size)`` raises a ValueError unless all are 1 or more."""
    _require(lambda value: value >= least, f"at least {least}", values)


def at_most(most: float, /, **values: float | None) -> None:
    """``at_most(4096, num_mel_bins=num_mel_bins)`` raises a ValueError unless all are 4096 or less."""
    _require(lambda value: value <= most, f"at most {most:g}", values)


def positive(**values: float | None) -> None:
    """``positive(learning_rate=learning_rate)`` raises a ValueError unless it is above 0."""
    _require(lambda value: value > 0, "greater than 0", values)


def within(low: float, high: float, ends: Literal["[]", "[)", "(]", "()"] = "[]", /, **values: float | None) -> None:
    """``within(0, 1, "[)", drop_path=drop_path)`` raises a ValueError unless it lies in [0, 1); see ``ends``."""
    rule = {
        "[]": f"between {low} and {high}",
        "[)": f"at least {low} and less than {high}",
        "(]": f"greater than {low} and at most {high}",
        "()": f"between {low} and {high}, both excluded",
    }[ends]
    above = operator.ge if ends[0] == "[" else operator.gt
    below = operator.le if ends[1] == "]" else operator.lt
    _require(lambda value: above(value, low) and below(value, high), rule, values)


def _require(holds: Callable[[float], bool], rule: str, values: dict[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None and not holds(value):
            raise ValueError(f"{name} must be {rule}, got {value}.")
