"""Spectra of all windows of a waveform as one convolution.

Everything up to the spectrum is linear in the samples of a window, so its response to each of them alone, in float64,
is the convolution's weight. Shape letters: B clips, T samples, L frames, K frequency bins, W samples of a window.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvolutionalSpectrum(nn.Module):
    """Waveforms (B, T), T at least one window, to powers (B, L, K) of whole windows.

    Args:
        spectrum: Linear map of windows (1, W, W) to a complex spectrum (1, W, K).
        window_length: Samples W of a window.
        hop_length: Samples from the beginning of a window to that of the next one.
    """

    def __init__(self, spectrum: Callable[[Tensor], Tensor], window_length: int, hop_length: int) -> None:
        super().__init__()
        response_WK = spectrum(torch.eye(window_length, dtype=torch.float64)[None])[0]
        weight_KW = torch.cat([response_WK.real, response_WK.imag], dim=1).T
        self.register_buffer("weight_K1W", weight_KW[:, None].float().contiguous(), persistent=False)
        self.weight_K1W: Tensor
        self.hop_length = hop_length

    def forward(self, waveform_BT: Tensor) -> Tensor:
        parts_BKL = F.conv1d(waveform_BT[:, None], self.weight_K1W, stride=self.hop_length)
        real_BKL, imaginary_BKL = parts_BKL.chunk(2, dim=1)
        return (real_BKL.square() + imaginary_BKL.square()).transpose(1, 2)


def rounded_up(number: int, step: int) -> int:
    """The next multiple of ``step``; also of a number that a graph only knows by its symbol."""
    return (number + step - 1) // step * step
