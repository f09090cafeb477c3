"""What is heard when: a classifier's probabilities in windows that overlap by half.

Shape letters: B windows, T samples, C classes.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sslam.audio import Waveform
from sslam.embedding.embedder import AudioEmbedder
from sslam.embedding.windows import Window, windows_of

TAG_SECONDS = 2.0
TYPICAL_SECONDS = 10.0  # of a clip that the batch size counts


class TagsOverTime(NamedTuple):
    """Probabilities (B, C) of the windows of a recording, and where these begin and end in seconds, (B,) each."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    probabilities: NDArray[np.float32]


def tags_over_time(
    embedder: AudioEmbedder,
    blocks: Iterable[Waveform],
    window_seconds: float = TAG_SECONDS,
    batch_size: int = 32,
) -> TagsOverTime:
    """Tag a recording window by window. Each window is heard on its own, as a clip of this length would be.

    Args:
        embedder: Embedder of a checkpoint with a classifier.
        blocks: Samples (T,) in [-1, 1] at the embedder's rate, one after the other: ``[waveform]``, or a stream.
        window_seconds: Length of a window; one begins every half of it, and the last one ends with the recording. A
            shorter recording is one window.
        batch_size: Clips of ten seconds that go through the encoder at once; of shorter windows more.

    Raises:
        ValueError: If the embedder has no classifier, or the windows are shorter than 0.1 s.
    """
    if embedder.classifier is None:
        raise ValueError("Tags need a classifier, and the checkpoint has none. Give a fine-tuned one.")
    if not 0.1 <= window_seconds < float("inf"):
        raise ValueError(f"window_seconds must be at least 0.1 and finite, got {window_seconds:g}.")
    length = round(window_seconds * embedder.sample_rate)
    most = max(1, round(batch_size * TYPICAL_SECONDS / window_seconds))
    starts: list[int] = []
    ends: list[int] = []
    probabilities = []
    for windows in _batches(windows_of(blocks, length, length // 2), most):
        logits_BC = embedder(np.stack([window.waveform for window in windows])).logits
        assert logits_BC is not None
        probabilities.append(embedder.probabilities(logits_BC).cpu())
        starts += [window.start for window in windows]
        ends += [window.start + len(window.waveform) for window in windows]
    seconds = np.array([starts, ends]) / embedder.sample_rate
    return TagsOverTime(seconds[0], seconds[1], torch.cat(probabilities).numpy())


def _batches(windows: Iterator[Window], most: int) -> Iterator[list[Window]]:
    """Windows of one length, at most so many at once; only a recording that is shorter than one has another length."""
    for _, alike in groupby(windows, key=lambda window: len(window.waveform)):
        while some := list(islice(alike, most)):
            yield some
