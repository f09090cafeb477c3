"""Picture of a separation: spectrograms of a mixture and its sources below each other, in the same colors.

Shape letters: N estimates, S sources, T samples, F frequencies, L columns.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from sslam.audio import Waveform

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
) -> Figure:
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
    # Of what is finite: the estimates of a network that has diverged are not.
    loudest = max(float(shown_FL.max(initial=-120, where=np.isfinite(shown_FL))) for shown_FL in everything)
    style: dict[str, Any] = {"cmap": "magma", "vmin": loudest - DYNAMIC_RANGE, "vmax": loudest}
    extent = (0, len(mixture_T) / sample_rate, 0, sample_rate / 2000)

    num_columns = 1 if sources is None else 2
    num_rows = 1 + max(len(estimates), len(sources or ()))
    figure = Figure(figsize=(10 + 4 * (num_columns - 1), 1 + 2 * num_rows), layout="constrained")
    if title is not None:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)  # no formulas: file names may hold dollars
    axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)

    def show(axis: Axes, values_FL: Spectrogram, name: str) -> Any:
        axis.set_title(name, loc="left", fontsize=10)
        return axis.imshow(values_FL, origin="lower", aspect="auto", interpolation="none", extent=extent, **style)

    image = show(axes[0, 0], mixture_FL, "Mixture")
    columns = [("Estimate", estimates)] if sources is None else [("Estimate", estimates), ("Source", sources)]
    for column, (name, spectrograms) in enumerate(columns):
        for number, values_FL in enumerate(spectrograms, start=1):
            show(axes[number, column], values_FL, f"{name} {number}")
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
