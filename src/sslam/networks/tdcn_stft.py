"""TDCN++ over a fixed basis, the short-time Fourier transform (the published FUSS baseline, and MixIT's STFT variant).

Shape letters: B clips, N sources, T samples, L frames, E bins, W samples of a window.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslam.networks.separator import Consistency
from sslam.networks.tdcn_masking import MaskingTDCN

NORM_EPS = 1e-3  # Keras' default


class STFTTDCN(MaskingTDCN):
    """TDCN++ whose masks are applied to an STFT: nothing of the basis is learned.

    The blocks get the magnitudes, normalised over the whole clip (biased variance, epsilon 1e-3, one learned scale and
    shift). Windows are square roots of a periodic Hann window, and the inverse transform's are dual to them; the last
    frames are filled up with zeros. As published nothing is padded in front, so that the first samples, which few
    windows hear, come out quieter, until consistency hands out what is missing.

    Args:
        num_sources: See :class:`~sslam.networks.TDCN`.
        sample_rate: See :class:`~sslam.networks.TDCN`; here it sets the lengths of windows and hops alone.
        consistency: See :class:`~sslam.networks.TDCN`.
        window_seconds: Length of a window. Published: 32 ms.
        hop_seconds: From one window to the next. Published: 8 ms.
        width: See :class:`~sslam.networks.TDCN`.
        hidden_width: See :class:`~sslam.networks.TDCN`.
        num_blocks: See :class:`~sslam.networks.TDCN`.
        dilation_cycle: See :class:`~sslam.networks.TDCN`.
        checkpoint_blocks: See :class:`~sslam.networks.TDCN`.

    Raises:
        ValueError: If a size is out of its range, or the windows leave gaps.
    """

    def __init__(
        self,
        num_sources: int = 2,
        sample_rate: int = 16_000,
        consistency: Consistency = "pred_source",
        window_seconds: float = 0.032,
        hop_seconds: float = 0.008,
        width: int = 256,
        hidden_width: int = 512,
        num_blocks: int = 32,
        dilation_cycle: int = 8,
        checkpoint_blocks: bool = False,
    ) -> None:
        window_length, hop_length = round(window_seconds * sample_rate), round(hop_seconds * sample_rate)
        if not 1 <= hop_length <= window_length // 2:
            raise ValueError(
                f"hop_seconds must be at most half of window_seconds, and a sample at least, got {hop_seconds} and "
                f"{window_seconds} at {sample_rate} Hz."
            )
        fft_length = 1 << (window_length - 1).bit_length()
        super().__init__(
            num_sources,
            sample_rate,
            consistency,
            num_basis=fft_length // 2 + 1,
            window_length=window_length,
            hop_length=hop_length,
            learns_basis=False,
            width=width,
            hidden_width=hidden_width,
            num_blocks=num_blocks,
            dilation_cycle=dilation_cycle,
            checkpoint_blocks=checkpoint_blocks,
        )
        self.fft_length = fft_length
        self.min_samples = 1
        self.magnitude_scale = nn.Parameter(torch.ones(()))
        self.magnitude_shift = nn.Parameter(torch.zeros(()))
        window_W = torch.hann_window(window_length, periodic=True, dtype=torch.float64).sqrt()
        self.register_buffer("window_W", window_W.float(), persistent=False)
        self.register_buffer("inverse_window_W", dual_window(window_W, hop_length).float(), persistent=False)
        self.window_W: Tensor
        self.inverse_window_W: Tensor

    def encode(self, mixture_BT: Tensor) -> Tensor:
        """Waveforms (B, T) to complex spectra (B, E, L), one frame for each hop that has begun."""
        num_frames = math.ceil(mixture_BT.shape[-1] / self.hop_length)
        missing = (num_frames - 1) * self.hop_length + self.window_length - mixture_BT.shape[-1]
        frames_BLW = F.pad(mixture_BT, (0, missing)).unfold(1, self.window_length, self.hop_length)
        return torch.fft.rfft(frames_BLW * self.window_W, n=self.fft_length).mT

    def core(self, code_BEL: Tensor) -> Tensor:
        """Complex spectra (B, E, L) to the output of the last block (B, D, L)."""
        with torch.autocast(code_BEL.device.type, enabled=False):
            magnitude_BEL = code_BEL.abs()
            variance_B11, mean_B11 = torch.var_mean(magnitude_BEL, dim=(1, 2), correction=0, keepdim=True)
            normed_BEL = (magnitude_BEL - mean_B11) * (variance_B11 + NORM_EPS).rsqrt()
            normed_BEL = normed_BEL * self.magnitude_scale + self.magnitude_shift
        return super().core(normed_BEL)

    def decode(self, code_BNEL: Tensor, num_samples: int) -> Tensor:
        """Masked spectra (B, N, E, L) to waveforms (B, N, T), by overlap-add."""
        frames_XLW = torch.fft.irfft(code_BNEL.flatten(0, 1).mT, n=self.fft_length)[..., : self.window_length]
        length = (code_BNEL.shape[-1] - 1) * self.hop_length + self.window_length
        added = F.fold(
            (frames_XLW * self.inverse_window_W).mT,
            (1, length),
            kernel_size=(1, self.window_length),
            stride=(1, self.hop_length),
        )
        return added[:, 0, 0, :num_samples].unflatten(0, code_BNEL.shape[:2])


def dual_window(window_W: Tensor, hop_length: int) -> Tensor:
    """Window of the inverse transform: overlapping products with the window add up to 1 away from the ends."""
    length = len(window_W)
    overlaps = math.ceil(length / hop_length)
    squared = F.pad(window_W.square(), (0, overlaps * hop_length - length)).view(overlaps, hop_length)
    return window_W / squared.sum(dim=0).repeat(overlaps)[:length]
