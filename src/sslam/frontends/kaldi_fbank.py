"""Kaldi-compatible log-mel filter banks of a whole batch in one call.

Shape letters: B clips, T samples, L frames, F mel bins, W samples of a window, K frequency bins.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslam.frontends.base import Frontend
from sslam.frontends.convolutional import ConvolutionalSpectrum, rounded_up

PREEMPHASIS = 0.97
LOW_FREQUENCY = 20.0


class KaldiFbank(Frontend):
    """Normalised log-mel filter banks as EAT and SSLAM use them.

    The mean of the clip is subtracted; Kaldi's fbank follows (25 ms Hann window every 10 ms, only whole windows, DC
    offset of each window removed, pre-emphasis 0.97, power spectrum, no dither, no energy); the first ``num_frames``
    frames are kept or zeros are appended; then ``(x - mean) / (2 * std)``. Always in float32, also under autocast.

    Args:
        num_frames: Frames of the features. 1024 for clips of 10 s, 512 for 5 s, 128 for 1 s.
        num_mel_bins: Mel bins between 20 Hz and half the sample rate.
        mean: Mean of the log-mels of the data set; AudioSet -4.268, ESC-50 -6.627, Speech Commands v2 -6.846,
            SPASS -5.275.
        std: Standard deviation of the log-mels of the data set; AudioSet 4.569, ESC-50 5.359, Speech Commands v2 5.565,
            SPASS 3.268.
        sample_rate: Rate of the waveforms in Hz.
        statistics: ``auto`` to measure mean and std on the clips that are trained on; None for those given.

    Raises:
        ValueError: If the standard deviation is not positive, there are no frames, or too few mel bins.
    """

    usual_num_frames = "1024 for 10 s, 512 for 5 s, 128 for 1 s"

    def __init__(
        self,
        num_frames: int = 1024,
        num_mel_bins: int = 128,
        mean: float = -4.268,
        std: float = 4.569,
        sample_rate: int = 16000,
        statistics: Literal["auto"] | None = None,
    ) -> None:
        super().__init__(num_frames, num_mel_bins, mean, std, sample_rate, statistics)
        self.register_buffer("mel_banks_KF", self.mel_banks(LOW_FREQUENCY, 0.0), persistent=False)
        self.register_buffer("window_W", torch.hann_window(self.window_length, periodic=False), persistent=False)
        self.mel_banks_KF: Tensor
        self.window_W: Tensor

    def frames_in(self, num_samples: Tensor) -> Tensor:
        """Whole windows in clips of ``num_samples`` samples: 998 in 10 s."""
        frames = torch.div(num_samples - self.window_length, self.hop_length, rounding_mode="floor") + 1
        return frames.clamp(min=0)

    @property
    def log_scale(self) -> float:
        return 2 * self.std

    def log_mel(self, waveform_BT: Tensor) -> Tensor:
        """Kaldi's fbank of waveforms (B, T), T at least one window, before padding and normalising: (B, L', F)."""
        spectrum_BLK = self.spectrum(waveform_BT.unfold(1, self.window_length, self.hop_length))
        squares_BLK2 = torch.view_as_real(spectrum_BLK).square()
        # Not a sum over two numbers, which takes longer than the Fourier transform.
        return self.log_of_powers(squares_BLK2[..., 0] + squares_BLK2[..., 1])

    def log_of_powers(self, power_BLK: Tensor) -> Tensor:
        """Power spectra (B, L, K) to log-mels (B, L, F)."""
        return (power_BLK @ self.mel_banks_KF).clamp(min=torch.finfo(torch.float32).eps).log()

    def spectrum(self, windows_BLW: Tensor) -> Tensor:
        """Windows of samples (B, L, W) to their complex spectrum (B, L, K): DC offset, pre-emphasis, Hann window."""
        windows_BLW = windows_BLW - windows_BLW.mean(dim=-1, keepdim=True)
        previous_BLW = PREEMPHASIS * windows_BLW
        windows_BLW[..., 1:] -= previous_BLW[..., :-1]
        windows_BLW[..., 0] -= previous_BLW[..., 0]  # a window begins with its own first sample
        return torch.fft.rfft(windows_BLW * self.window_W, n=self.fft_length)

    def for_export(self, column_frames: int) -> nn.Module:
        return ExportedKaldiFbank(self, column_frames)

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Waveforms (B, T), padded at the end, to features (B, num_frames, F).

        Args:
            waveform_BT: Samples in [-1, 1].
            num_samples_B: True lengths of the clips; the rest of a row is padding that must not count. None: all of T.
        """
        with torch.autocast(waveform_BT.device.type, enabled=False):
            waveform_BT = waveform_BT.float()
            num_clips, num_samples = waveform_BT.shape
            self._warn_of_other_length(num_samples)
            if num_samples_B is None:
                num_samples_B = torch.full((num_clips,), num_samples, device=waveform_BT.device)
            inside_BT = torch.arange(num_samples, device=waveform_BT.device) < num_samples_B[:, None]
            mean_B1 = (waveform_BT * inside_BT).sum(dim=1, keepdim=True) / num_samples_B.clamp(min=1)[:, None]
            # No more samples than the frames that are kept need, and at least one window.
            missing = max(0, self.window_length - num_samples)
            waveform_BT = F.pad(waveform_BT[:, : self.crop_samples], (0, missing)) - mean_B1
            # One batched call, but on a CPU one clip at a time stays in the cache (measured: 1.5 times as fast).
            chunk_size = 1 if waveform_BT.device.type == "cpu" else num_clips
            features_BLF = torch.cat([self.log_mel(chunk_BT) for chunk_BT in waveform_BT.split(chunk_size)])
            padding = self.num_frames - features_BLF.shape[1]
            frame_L = torch.arange(features_BLF.shape[1], device=waveform_BT.device)
            outside_BL = frame_L >= self.frames_in(num_samples_B)[:, None]
            features_BLF = features_BLF.masked_fill(outside_BL[..., None], 0.0)
            return (F.pad(features_BLF, (0, 0, 0, padding)) - self.mean) / (2 * self.std)


class ExportedKaldiFbank(nn.Module):
    """See :meth:`KaldiFbank.for_export`: waveforms (B, T) to features (B, L, F)."""

    def __init__(self, frontend: KaldiFbank, column_frames: int) -> None:
        super().__init__()
        self.frontend = frontend
        self.powers = ConvolutionalSpectrum(frontend.spectrum, frontend.window_length, frontend.hop_length)
        self.column_frames = column_frames

    def forward(self, waveform_BT: Tensor) -> Tensor:
        frontend = self.frontend
        features_BLF = frontend.log_of_powers(self.powers(waveform_BT - waveform_BT.mean(dim=1, keepdim=True)))
        missing = rounded_up(features_BLF.shape[1], self.column_frames) - features_BLF.shape[1]
        return (F.pad(features_BLF, (0, 0, 0, missing)) - frontend.mean) / (2 * frontend.std)
