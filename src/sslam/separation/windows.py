"""Long recordings in overlapping windows that are separated one by one and joined.

Shape letters: N sources, C channels, T samples, W samples of a window.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from sslam.audio import Waveform
from sslam.separation.source_order import order_like


def window_starts(num_samples: int, window: int, overlap: int) -> list[int]:
    """Starts of the fewest windows of one length, evenly spread, that cover a recording longer than one of them.

    Neighbours overlap by at least ``overlap`` samples. No window is shorter, since the network's norm runs over it.
    """
    number = -(-(num_samples - overlap) // (window - overlap))
    return [round(start) for start in np.linspace(0, num_samples - window, number)]


def join_windows(windows_NCW: Iterable[Waveform], starts: Sequence[int], fade_length: int) -> Iterator[Waveform]:
    """Pieces (N, C, t), in order, of the whole recording.

    The sources of a window are put in the order of the window before, by what both hold of the overlap. In the middle
    of the overlap one is faded out and the other in over ``fade_length`` samples; the gains add up to 1, so that the
    sum over the sources stays what it is.
    """
    fade: Waveform = np.sin(np.linspace(0, np.pi / 2, fade_length + 2)[1:-1]).astype(np.float32) ** 2
    windows = iter(windows_NCW)
    before, position = next(windows), 0
    for window, start, start_before in zip(windows, starts[1:], starts[:-1], strict=True):
        step = start - start_before
        overlap = before.shape[-1] - step
        window = window[order_like(before[..., step:], window[..., :overlap])]
        first = (overlap - fade_length) // 2
        end = first + fade_length
        yield before[..., position : step + first]
        yield (1 - fade) * before[..., step + first : step + end] + fade * window[..., first:end]
        before, position = window, end
    yield before[..., position:]
