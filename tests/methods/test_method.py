"""What the methods say of themselves to the command line."""

import pytest

from sslam.methods import SSLAM, MixIT, SeparationContrastive
from sslam.methods.method import Method


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        (SSLAM, {"encoder": {}, "initial_checkpoint": "start.ckpt"}, {"initial_checkpoint": None}),
        (SSLAM, {"encoder": {}, "initial_checkpoint": None}, {"initial_checkpoint": None}),
        (MixIT, {"separator": {}, "initial_checkpoint": "start.ckpt"}, {"initial_checkpoint": None}),
        (MixIT, {"separator": None, "initial_checkpoint": "start.ckpt"}, {"initial_checkpoint": "run.ckpt"}),
        (SeparationContrastive, {"encoder": {}}, {}),
    ],
)
def test_arguments_for_resuming__the_file_of_the_beginning_is_not_needed(
    method: type[Method], arguments: dict[str, object], expected: dict[str, object]
) -> None:
    assert method.arguments_for_resuming(arguments, "run.ckpt") == expected


@pytest.mark.parametrize("method", [SSLAM, MixIT, SeparationContrastive])
def test_what_is_random__without_a_file(method: type[Method]) -> None:
    assert method.what_is_random({"initial_checkpoint": "start.ckpt"}) is None
    for arguments in ({"initial_checkpoint": None}, {}):
        assert method.what_is_random(arguments) == "The model has random weights: no checkpoint was given."
