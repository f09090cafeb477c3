"""Log-mel spectrograms as the convolutional audio networks of Google Research take them.

Shape letters: B clips, T samples, L frames, F mel bins, W samples of a window, K frequency bins.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslam.checks import positive
from sslam.frontends.base import Frontend
from sslam.frontends.convolutional import ConvolutionalSpectrum, rounded_up


class LogMel(Frontend):
    """Log-mel spectrogram: 25 ms Hann windows every 10 ms, 64 mel bands (Fonseca et al. 2021 sec. 4.2).

    What the paper leaves open is as in VGGish (Hershey et al. 2017) and YAMNet: magnitudes, not powers, of a Fourier
    transform of 512 points; triangles in the mel scale ``1127 ln(1 + f / 700)`` from 125 to 7500 Hz; ``log(mel +
    0.001)`` (YAMNet; VGGish adds 0.01); a periodic window. Neither of them normalises, and so ``mean`` and ``std``
    leave the features as they are by default. Always in float32, also under autocast.

    Frame l hears the samples from ``160 l`` to ``160 l + 399``, so 96 frames, one for each 10 ms of 0.96 s, hear
    0.975 s (15 600 samples). A clip that ends earlier is filled up with zeros: of 0.96 s the last two frames hear some
    of them, and frames after the end have the value of silence. Crops of :attr:`crop_samples` need no filling.

    Args:
        num_frames: Frames L of the features, which are the first ones of the clip: 96 for 0.96 s, 100 for each second.
        num_mel_bins: Mel bands F.
        mean: Value that is subtracted from the log-mels.
        std: Value that the log-mels are then divided by.
        sample_rate: Rate of the waveforms in Hz.
        low_frequency: Lower end of the lowest triangle in Hz.
        high_frequency: Upper end of the highest triangle in Hz.
        log_offset: Offset that is added before the logarithm, > 0.
        statistics: ``auto`` to measure mean and std on the clips that are trained on; None for those given.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        num_frames: int = 96,
        num_mel_bins: int = 64,
        mean: float = 0.0,
        std: float = 1.0,
        sample_rate: int = 16000,
        low_frequency: float = 125.0,
        high_frequency: float = 7500.0,
        log_offset: float = 0.001,
        statistics: Literal["auto"] | None = None,
    ) -> None:
        super().__init__(num_frames, num_mel_bins, mean, std, sample_rate, statistics)
        positive(log_offset=log_offset)
        if not 0 <= low_frequency < high_frequency <= sample_rate / 2:
            raise ValueError(
                f"low_frequency must be below high_frequency, and both between 0 and half the sample rate "
                f"({sample_rate / 2:g} Hz), got {low_frequency:g} and {high_frequency:g} Hz."
            )
        self.low_frequency = low_frequency
        self.high_frequency = high_frequency
        self.log_offset = log_offset
        # Kaldi's mel scale and triangles are those of VGGish; its pre-emphasis, powers and windows are not.
        banks_KF = self.mel_banks(low_frequency, high_frequency)
        self.register_buffer("mel_banks_KF", banks_KF, persistent=False)
        self.register_buffer("window_W", torch.hann_window(self.window_length), persistent=False)
        self.mel_banks_KF: Tensor
        self.window_W: Tensor

    def frames_in(self, num_samples: Tensor) -> Tensor:
        """Frames that begin within clips of ``num_samples`` samples: 100 in a second."""
        return torch.div(num_samples + self.hop_length - 1, self.hop_length, rounding_mode="floor")

    def log_mel(self, waveform_BT: Tensor) -> Tensor:
        """Log-mels of waveforms (B, T), T at least one window, before normalising: (B, L', F)."""
        spectrum_BLK = self.spectrum(waveform_BT.unfold(1, self.window_length, self.hop_length))
        return self.log_of_magnitudes(spectrum_BLK.abs())

    def spectrum(self, windows_BLW: Tensor) -> Tensor:
        """Windows of samples (B, L, W) to their complex spectrum (B, L, K), with a Hann window."""
        return torch.fft.rfft(windows_BLW * self.window_W, n=self.fft_length)

    def log_of_magnitudes(self, magnitude_BLK: Tensor) -> Tensor:
        """Magnitude spectra (B, L, K) to log-mels (B, L, F)."""
        return torch.log(magnitude_BLK @ self.mel_banks_KF + self.log_offset)

    def for_export(self, column_frames: int) -> nn.Module:
        return ExportedLogMel(self, column_frames)

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Waveforms (B, T) of any length to features (B, num_frames, F).

        Args:
            waveform_BT: Samples in [-1, 1].
            num_samples_B: True lengths of the clips; the rest of a row is padding that must not count. None: all of T.
        """
        with torch.autocast(waveform_BT.device.type, enabled=False):
            waveform_BT = waveform_BT.float()
            num_samples = waveform_BT.shape[1]
            self._warn_of_other_length(num_samples)
            if num_samples_B is not None:
                sample_T = torch.arange(num_samples, device=waveform_BT.device)
                waveform_BT = waveform_BT.masked_fill(sample_T >= num_samples_B[:, None], 0.0)
            waveform_BT = F.pad(waveform_BT, (0, self.crop_samples - num_samples))  # which cuts longer clips
            return (self.log_mel(waveform_BT) - self.mean) / self.std


class ExportedLogMel(nn.Module):
    """See :meth:`LogMel.for_export`: waveforms (B, T) to features (B, L, F)."""

    def __init__(self, frontend: LogMel, column_frames: int) -> None:
        super().__init__()
        self.frontend = frontend
        self.powers = ConvolutionalSpectrum(frontend.spectrum, frontend.window_length, frontend.hop_length)
        self.column_frames = column_frames

    def forward(self, waveform_BT: Tensor) -> Tensor:
        frontend, num_samples = self.frontend, waveform_BT.shape[1]
        num_frames = rounded_up(rounded_up(num_samples, frontend.hop_length) // frontend.hop_length, self.column_frames)
        heard = frontend.window_length + (num_frames - 1) * frontend.hop_length
        # More than is needed and then cut, as what is missing may be less than nothing.
        waveform_BT = F.pad(waveform_BT, (0, heard))[:, :heard]
        return (frontend.log_of_magnitudes(self.powers(waveform_BT).sqrt()) - frontend.mean) / frontend.std
