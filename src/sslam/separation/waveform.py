"""Separation of waveforms of any rate, length and number of channels into sources that add up to them.

Shape letters: B clips, N sources, C channels, R rows (the channels of all clips), T samples.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
import soxr
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sslam.audio import Waveform
from sslam.checks import at_least
from sslam.networks.separator import Separator
from sslam.separation.source_order import order_channels
from sslam.separation.windows import join_windows, window_starts

Clip = TypeVar("Clip")
Kind = TypeVar("Kind")

WINDOW_SECONDS = 30.0  # 1.4 GB for the published network with two sources
OVERLAP = 0.1  # of a window
BATCH_SIZE = 8
TYPICAL_SECONDS = 10.0  # of a clip that the batch size counts
SHARE_SECONDS = 0.05  # over which the power is taken that decides who gets what is missing
SILENT_POWER = 1e-12  # -120 dBFS: quieter sources count as equally loud


def separate_waveform(
    separator: Separator,
    waveform: ArrayLike | Tensor,
    sample_rate: int,
    window_seconds: float = WINDOW_SECONDS,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Sources of a waveform, at its own rate and length; they add up to it.

    A waveform of another rate than the separator's is resampled, separated and resampled back. What the estimates then
    lack to the waveform is handed out among them, at each moment in proportion to their power (over 50 ms). So the band
    above half of the separator's rate, which the network never sees, goes with whichever source sounds; and so it is
    with all that is missing where the separator's ``consistency`` is "none".

    Each channel is separated on its own and has its share in every source: a stereo waveform has stereo sources. Which
    estimates of two channels are one source follows from how alike their spectrograms are.

    A waveform up to ``window_seconds`` is separated as a whole, as the network was trained. A longer one is cut into
    windows that overlap by a tenth or more; each continues the order of sources of the one before, which is found where
    they overlap, and is faded in as that is faded out. Where a source is silent in an overlap, its place may change.

    Args:
        separator: Separator in eval mode, on any device.
        waveform: Shape (T,) or (C, T), finite, any level.
        sample_rate: Rate of the waveform in Hz.
        window_seconds: At least 1. Memory grows with it and, but for waveform and result, not with the waveform.
        batch_size: Clips (or channels, or windows) of ten seconds that go through the network at once; of longer ones
            fewer.

    Returns:
        Shape (N, T) or (N, C, T), float32, on the CPU.

    Raises:
        ValueError: If an argument does not fit, the waveform is too short for the separator, or an estimate is not
            finite.
    """
    samples = waveform.detach().cpu().numpy() if isinstance(waveform, Tensor) else np.asarray(waveform)
    samples = samples.astype(np.float32, copy=False)
    if samples.ndim not in (1, 2) or not samples.size:
        raise ValueError(f"A waveform must have shape (T,) or (C, T) and samples, got shape {samples.shape}.")
    if not np.isfinite(samples).all():
        raise ValueError("The waveform holds NaN or infinite samples. Leave them out or replace them.")
    check_settings(window_seconds, batch_size)
    if problem := too_short(separator, samples.shape[-1], sample_rate):
        raise ValueError(f"The waveform is {problem}. Leave it out or pad it.")
    waveform_CT = np.atleast_2d(samples)
    pieces = separate_in_windows(separator, waveform_CT, sample_rate, window_seconds, batch_size)
    estimates_NCT = np.concatenate(list(pieces), axis=-1)
    if not np.isfinite(estimates_NCT).all():
        raise ValueError(f"The estimates are not finite. Scale the waveform down, whose peak is {abs(samples).max()}.")
    return torch.from_numpy(estimates_NCT if samples.ndim == 2 else estimates_NCT[:, 0])


def check_settings(window_seconds: float, batch_size: int) -> None:
    """Refuse what :func:`separate_waveform` does not take, with a ValueError."""
    if not 1 <= window_seconds < float("inf"):
        raise ValueError(f"window_seconds must be at least 1 and finite, got {window_seconds}.")
    at_least(1, batch_size=batch_size)


def too_short(separator: Separator, num_samples: int, sample_rate: int) -> str | None:
    """What to say of a waveform that is too short for the separator, else None."""
    resampled = resampled_length(num_samples, sample_rate, separator.sample_rate)
    if resampled >= separator.min_samples:
        return None
    return (
        f"too short: {resampled} samples at the separator's {separator.sample_rate} Hz, and at least "
        f"{separator.min_samples} are needed"
    )


def separate_in_windows(
    separator: Separator, waveform_CT: Waveform, sample_rate: int, window_seconds: float, batch_size: int
) -> Iterator[Waveform]:
    """Pieces (N, C, t), in order, of the sources of a waveform; see :func:`separate_waveform`."""
    num_channels, num_samples = waveform_CT.shape
    window = round(window_seconds * sample_rate)
    if num_samples <= window:
        yield separate_clips(separator, waveform_CT[None], sample_rate, batch_size)[0]
        return
    overlap = round(OVERLAP * window)
    starts = window_starts(num_samples, window, overlap)
    at_once = max(1, rows_at_once(batch_size, window_seconds) // num_channels)

    def separated_windows() -> Iterator[Waveform]:
        for first in range(0, len(starts), at_once):
            windows = [waveform_CT[:, start : start + window] for start in starts[first : first + at_once]]
            yield from separate_clips(separator, np.stack(windows), sample_rate, batch_size)

    yield from join_windows(separated_windows(), starts, overlap)


def separate_clips(separator: Separator, clips_BCT: Waveform, sample_rate: int, batch_size: int) -> Waveform:
    """Sources (B, N, C, T) of clips that are short enough to be separated as a whole."""
    num_clips, num_channels, num_samples = clips_BCT.shape
    rows_RNT = separate_rows(separator, clips_BCT.reshape(-1, num_samples), sample_rate, batch_size)
    estimates_BCNT = rows_RNT.reshape(num_clips, num_channels, -1, num_samples)
    for estimates_CNT in estimates_BCNT:
        order_channels(estimates_CNT)
    return estimates_BCNT.swapaxes(1, 2)


@torch.inference_mode()
def separate_rows(separator: Separator, rows_RT: Waveform, sample_rate: int, batch_size: int) -> Waveform:
    """Sources (R, N, T) of single channels (R, T), each on its own; they add up to it."""
    num_rows, num_samples = rows_RT.shape
    device = next(separator.parameters()).device
    rate = separator.sample_rate
    resampled_RT = resample(rows_RT, sample_rate, rate, resampled_length(num_samples, sample_rate, rate))
    at_once = rows_at_once(batch_size, num_samples / sample_rate)
    estimates_RNT = np.empty((num_rows, separator.num_sources, num_samples), np.float32)
    for first in range(0, num_rows, at_once):
        batch_BT = torch.from_numpy(resampled_RT[first : first + at_once]).to(device)
        for row, estimates_NT in enumerate(separator(batch_BT).float().cpu().numpy(), start=first):
            own_rate_NT = resample(estimates_NT, rate, sample_rate, num_samples)
            estimates_RNT[row] = hand_out_missing(own_rate_NT, rows_RT[row], sample_rate)
    return estimates_RNT


def rows_at_once(batch_size: int, seconds: float) -> int:
    """Rows of this length that go through the network at once."""
    return max(1, min(batch_size, int(batch_size * TYPICAL_SECONDS / seconds)))


def runs_of_one_kind(
    clips: Iterable[Clip], kind: Callable[[Clip], Kind], most: Callable[[Kind], int]
) -> Iterator[list[Clip]]:
    """Neighbours of one kind, at most so many at once; they are taken one by one, as a run needs them."""
    for value, group in groupby(clips, key=kind):
        while some := list(islice(group, most(value))):
            yield some


def resampled_length(num_samples: int, sample_rate: int, new_rate: int) -> int:
    """Samples of a waveform after resampling."""
    return round(num_samples * new_rate / sample_rate)


def resample(waveform_RT: Waveform, sample_rate: int, new_rate: int, num_samples: int) -> Waveform:
    """Waveforms (R, T) at another rate, cut or filled up with zeros to exactly so many samples."""
    if sample_rate == new_rate:
        return waveform_RT
    resampled_RT = soxr.resample(waveform_RT.T, sample_rate, new_rate).T[:, :num_samples]
    return np.pad(np.ascontiguousarray(resampled_RT), ((0, 0), (0, num_samples - resampled_RT.shape[1])))


def hand_out_missing(estimates_NT: Waveform, mixture_T: Waveform, sample_rate: int) -> Waveform:
    """Estimates (N, T) that add up to the mixture: each gets what is missing in proportion to its power just then."""
    missing_T = mixture_T - estimates_NT.sum(axis=0)
    width = max(1, round(SHARE_SECONDS * sample_rate))
    from scipy.ndimage import uniform_filter1d  # takes a fifth of a second

    power_NT: NDArray[np.float64] = uniform_filter1d(np.square(estimates_NT, dtype=np.float64), width, mode="constant")
    power_NT = power_NT.clip(min=0) + SILENT_POWER  # a running sum may end below zero
    return estimates_NT + (missing_T * power_NT / power_NT.sum(axis=0)).astype(np.float32)
