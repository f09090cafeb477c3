"""Mel-frequency cepstral coefficients, as Kaldi computes them.

Shape letters: B clips, T samples, L frames, M mel bands, F coefficients.
"""

import math

import torch
from torch import Tensor

from sslam.checks import at_least
from sslam.errors import UsageError
from sslam.frontends.kaldi_fbank import KaldiFbank

LIFTER = 22.0


class MFCC(KaldiFbank):
    """Coefficients of the cosine transform of log-mels, the classical features of audio (Davis and Mermelstein 1980).

    Kaldi's: its log-mel filter banks (:class:`~sslam.frontends.KaldiFbank`), an orthonormal cosine transform (DCT-II)
    over the bands, of which the first coefficients are kept, the zeroth one too, and a sine lifter of 22 that scales
    them. The first ``num_frames`` frames are kept or zeros appended. They are not normalised.

    Args:
        num_frames: Frames L of the features.
        num_coefficients: Coefficients F, which an encoder takes as its mel bins.
        num_mel_bands: Mel bands M that are transformed, at least as many.
        sample_rate: Rate of the waveforms in Hz.

    Raises:
        ValueError: If there are more coefficients than bands, or a value is out of its range.
    """

    def __init__(
        self, num_frames: int = 1024, num_coefficients: int = 20, num_mel_bands: int = 40, sample_rate: int = 16000
    ) -> None:
        at_least(4, num_coefficients=num_coefficients)
        if num_coefficients > num_mel_bands:
            raise ValueError(
                f"num_coefficients must be at most num_mel_bands, got {num_coefficients} of {num_mel_bands} bands."
            )
        super().__init__(num_frames, num_mel_bands, mean=0.0, std=0.5, sample_rate=sample_rate)  # which change nothing
        self.num_mel_bins = num_coefficients
        band_M, coefficient_F = torch.arange(num_mel_bands) + 0.5, torch.arange(num_coefficients)
        cosines_MF = torch.cos(math.pi / num_mel_bands * band_M[:, None] * coefficient_F)
        scale_F = torch.where(coefficient_F == 0, 1.0, 2.0).div(num_mel_bands).sqrt()
        lifter_F = 1 + LIFTER / 2 * torch.sin(math.pi * coefficient_F / LIFTER)
        self.register_buffer("transform_MF", cosines_MF * scale_F * lifter_F, persistent=False)
        self.transform_MF: Tensor

    @property
    def log_scale(self) -> float:
        raise UsageError("MFCCs are no logarithms of powers (log_scale), which clip_contrast adds up. Give KaldiFbank.")

    def log_mel(self, waveform_BT: Tensor) -> Tensor:
        """Coefficients of waveforms (B, T), T at least one window: whole windows only, (B, L', F)."""
        return super().log_mel(waveform_BT) @ self.transform_MF
