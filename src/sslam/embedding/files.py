"""In which batches files are read."""

from collections.abc import Sequence

from sslam.errors import UsageError


class EmbeddingError(UsageError):
    """``sslam embed`` cannot do what was asked; the message names the value, the rule and the remedy."""


def fill(lengths: Sequence[float], most_items: int, most_length: float) -> list[slice]:
    """Cut a sequence into runs of at most so many items and so much length together, but at least one item."""
    runs: list[slice] = []
    start, total = 0, 0.0
    for position, length in enumerate(lengths):
        if position > start and (position - start == most_items or total + length > most_length):
            runs.append(slice(start, position))
            start, total = position, 0.0
        total += length
    if start < len(lengths):
        runs.append(slice(start, len(lengths)))
    return runs
