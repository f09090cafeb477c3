"""Ranges of arguments."""

import math
from collections.abc import Callable
from functools import partial

import pytest

from sslam.checks import at_least, at_most, positive, within


@pytest.mark.parametrize(
    ("check", "inside", "outside", "rule"),
    [
        (partial(at_least, 2), [2, 3, math.inf], [1.9, math.nan], "at least 2"),
        (partial(at_most, 2), [2, -math.inf], [2.1, math.nan], "at most 2"),
        (positive, [1e-9, math.inf], [0, -1, math.nan], "greater than 0"),
        (partial(within, 0, 1), [0, 0.5, 1], [-0.1, 1.1, math.nan], "between 0 and 1"),
        (partial(within, 0, 1, "[)"), [0, 0.5], [-0.1, 1, math.nan], "at least 0 and less than 1"),
        (partial(within, 0, 1, "(]"), [0.5, 1], [0, 1.1, math.nan], "greater than 0 and at most 1"),
        (partial(within, 0, 1, "()"), [0.5], [0, 1, math.nan], "between 0 and 1, both excluded"),
    ],
)
def test_checks__refuse_what_is_outside_by_its_name(
    check: Callable[..., None], inside: list[float], outside: list[float], rule: str
) -> None:
    for value in inside:
        check(rate=value, left_out=None)
    for value in outside:
        with pytest.raises(ValueError, match=rf"^rate must be {rule}, got {value}\.$"):
            check(other=inside[0], rate=value)
