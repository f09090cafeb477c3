"""Picture of a separation: spectrograms of a mixture and its sources below each other, in the same colors.

Shape letters: N estimates, S sources, T samples, F frequencies, L columns.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sslam.audio import Waveform

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STFT_SECONDS = 0.032
DYNAMIC_RANGE = 80.0  # dB below the loudest point, from where on all is black
MAX_COLUMNS = 1500  # more than the pixels of the page
SILENT_POWER = 1e-12

Spectrogram = NDArray[np.float32]


def separation_picture(
    mixture_T: Waveform | Tensor,
    estimates_NT: Iterable[Waveform | Tensor],
    sample_rate: int,
    title: str | None = None,
    sources_ST: Iterable[Waveform | Tensor] | None = None,
) -> "Figure":
    """Spectrograms in dB over seconds and kHz, with one scale of colors for all of them.

    Args:
        mixture_T: What was separated, shape (T,), any level.
        estimates_NT: Its estimated sources, shape (N, T); read one after the other, so that they need not be in memory
            together.
        sample_rate: Rate in Hz.
        title: Title of the figure.
        sources_ST: The true sources, shape (S, T), where they are known: a second column beside the estimates.

    Returns:
        A figure of its own, without pyplot's global state.
    """
    mixture_FL = spectrogram(mixture_T, sample_rate)
    estimates = [spectrogram(estimate_T, sample_rate) for estimate_T in estimates_NT]
    sources = None if sources_ST is None else [spectrogram(source_T, sample_rate) for source_T in sources_ST]
    everything = [mixture_FL, *estimates, *(sources or ())]
    style = style_of(everything, len(mixture_T) / sample_rate, sample_rate)

    num_columns = 1 if sources is None else 2
    num_rows = 1 + max(len(estimates), len(sources or ()))
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(10 + 4 * (num_columns - 1), 1 + 2 * num_rows), layout="constrained")
    if title is not None:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)  # no formulas: file names may hold dollars
    axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)

    image = show(axes[0, 0], mixture_FL, "Mixture", style)
    columns = [("Estimate", estimates)] if sources is None else [("Estimate", estimates), ("Source", sources)]
    for column, (name, spectrograms) in enumerate(columns):
        for number, values_FL in enumerate(spectrograms, start=1):
            show(axes[number, column], values_FL, f"{name} {number}", style)
    return finished(figure, axes, image)


def processors_picture(
    mixture_T: Waveform | Tensor, channels_by_name: Mapping[str, Iterable[Waveform | Tensor]], sample_rate: int
) -> "Figure":
    """One clip through several separators, as figure 2 of the separation-contrastive paper: a row for each of them.

    Args:
        mixture_T: Clip, shape (T,).
        channels_by_name: Channels (N, T) of every separator, by the name that is written beside them.
        sample_rate: Rate in Hz.

    Returns:
        A figure of its own; the clip is at the top left, and all have one scale of colors.
    """
    rows = {name: [spectrogram(channel_T, sample_rate) for channel_T in c] for name, c in channels_by_name.items()}
    mixture_FL = spectrogram(mixture_T, sample_rate)
    everything = [mixture_FL, *(shown_FL for channels in rows.values() for shown_FL in channels)]
    style = style_of(everything, len(mixture_T) / sample_rate, sample_rate)
    num_columns = max(len(channels) for channels in rows.values())
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(1 + 5 * num_columns, 1 + 1.8 * (1 + len(rows))), layout="constrained")
    axes = figure.subplots(1 + len(rows), num_columns, sharex=True, sharey=True, squeeze=False)
    panels = [(axes[0, 0], "Mixture", mixture_FL)]
    for row, (name, channels) in enumerate(rows.items(), start=1):
        panels += [(axes[row, n], f"{name}, channel {n + 1}", shown_FL) for n, shown_FL in enumerate(channels)]
    for axis, name, shown_FL in panels:
        image = show(axis, shown_FL, name, style)
    return finished(figure, axes, image)


def style_of(everything: Iterable[Spectrogram], seconds: float, sample_rate: int) -> dict[str, Any]:
    """How all spectrograms of a picture are drawn: the loudest point of what is finite is the brightest."""
    loudest = max(float(shown_FL.max(initial=-120, where=np.isfinite(shown_FL))) for shown_FL in everything)
    extent = (0, seconds, 0, sample_rate / 2000)
    drawn = {"origin": "lower", "aspect": "auto", "interpolation": "none", "extent": extent}
    return drawn | {"cmap": "magma", "vmin": loudest - DYNAMIC_RANGE, "vmax": loudest}


def show(axis: "Axes", values_FL: Spectrogram, name: str, style: dict[str, Any]) -> Any:
    """Draw a spectrogram under its name."""
    axis.set_title(name.replace("$", r"\$"), loc="left", fontsize=10)
    return axis.imshow(values_FL, **style)


def finished(figure: "Figure", axes: NDArray[Any], image: Any) -> "Figure":
    """The figure with its scales; axes without a spectrogram are hidden."""
    for axis in axes.flat:
        axis.set_visible(bool(axis.images))
    for axis in axes[:, 0]:
        axis.set_ylabel("kHz")
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    figure.colorbar(image, ax=list(axes.flat), label="dB", pad=0.01, aspect=60)
    return figure


def spectrogram(waveform_T: Waveform | Tensor, sample_rate: int) -> Spectrogram:
    """Power in dB, shape (F, L), over Hann windows of 32 ms; long recordings in columns that are means over many."""
    waveform = torch.as_tensor(waveform_T, dtype=torch.float32).detach().cpu()
    length = max(16, round(STFT_SECONDS * sample_rate))
    hop = length // 2
    power_FL = (
        torch.stft(waveform, length, hop, window=torch.hann_window(length), pad_mode="constant", return_complex=True)
        .abs()
        .square()
    )
    if power_FL.shape[1] > MAX_COLUMNS:
        power_FL = F.adaptive_avg_pool1d(power_FL, MAX_COLUMNS)
    full_scale = (length / 4) ** 2  # the power of a sine of amplitude 1
    decibels: Spectrogram = (10 * torch.log10(power_FL / full_scale + SILENT_POWER)).numpy()
    return decibels
