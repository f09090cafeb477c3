"""Sound events with onset and offset: which classes a clip has, and how many events sound at once.

Shape letters: E events, N clips, C classes.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data_modules.listing import label_matrix


class Event(NamedTuple):
    """One sound event: column of its class, onset and offset in seconds."""

    label: int
    onset: float
    offset: float


def degree_of_polyphony(events_E3: NDArray[np.float32], times: NDArray[np.floating]) -> NDArray[np.int64]:
    """Number of events that sound at each time.

    Args:
        events_E3: Events as onset and offset in seconds, class; shape (E, 3). Rows of -1 (no event) count nowhere.
        times: Times in seconds, any shape.

    Returns:
        Counts with the shape of `times`.
    """
    onsets, offsets = events_E3[:, 0], events_E3[:, 1]
    sounding = (onsets <= times[..., None]) & (times[..., None] < offsets)
    return np.asarray(sounding.sum(axis=-1))


def clip_polyphony(events_E3: NDArray[np.float32]) -> int:
    """A clip's degree of polyphony: the largest number of its events that sound at once, 0 without events.

    Args:
        events_E3: Events as in :func:`degree_of_polyphony`.
    """
    # The number grows at onsets only.
    return int(degree_of_polyphony(events_E3, events_E3[:, 0]).max(initial=0))


def read_span(onset: str, offset: str, path: Path, line: int) -> tuple[float, float]:
    """Onset and offset in seconds.

    Raises:
        ValueError: If one is no number, or the event ends before it begins.
    """
    try:
        span = float(onset), float(offset)
    except ValueError as error:
        raise ValueError(
            f"'{path}', line {line}: onset and offset must be seconds, got '{onset}' and '{offset}'. Correct the line."
        ) from error
    if not 0 <= span[0] <= span[1]:
        raise ValueError(
            f"'{path}', line {line}: an event must start at 0 s or later and not end before, got {onset} to {offset} "
            "s. Correct the line."
        )
    return span


def labels_of(clips: Collection[Sequence[Event]], num_classes: int) -> csr_array:
    """Multi-hot labels (N, C) of clips, from their events."""
    return label_matrix(([event.label for event in events] for events in clips), num_classes)


def polyphony_of(clips: Collection[Sequence[Event]]) -> NDArray[np.int64]:
    """Degree of polyphony (N,) of clips, from their events."""
    degrees = [
        clip_polyphony(np.array([(event.onset, event.offset, event.label) for event in events]).reshape(-1, 3))
        for events in clips
    ]
    return np.array(degrees, np.int64)
