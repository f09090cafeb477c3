"""What every front end is. Shape letters: B clips, T samples, L frames, F mel bins, K frequency bins."""

import math
import warnings
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.compliance.kaldi import get_mel_banks

from sslam.checks import at_least, at_most, positive, within
from sslam.errors import UsageError
from sslam.rebuildable import Rebuildable


class Frontend(Rebuildable):
    """Base of every front end: waveforms on the batch's device to features. It learns nothing.

    Attributes:
        window_length: Samples that a frame hears, 25 ms.
        hop_length: Samples from the beginning of a frame to that of the next one, 10 ms.
        fft_length: Points of the Fourier transform of a frame.
        expects_length: Whether to warn of clips much longer or shorter than ``num_frames``.
        usual_num_frames: Advice in that warning.
        awaits_statistics: Whether ``mean`` and ``std`` are not known yet, and so NaN: see :meth:`with_statistics`.

    Args:
        num_frames: Frames L of the features.
        num_mel_bins: Mel bins F of the features.
        mean: Mean of the log-mels.
        std: Standard deviation of the log-mels.
        sample_rate: Rate of the waveforms in Hz.
        statistics: ``auto`` where mean and standard deviation are to be measured on the clips that are trained on,
            whatever ``mean`` and ``std`` say; None for these.

    Raises:
        ValueError: If a value is out of its range.
    """

    usual_num_frames = "100 for each second"

    def __init__(
        self,
        num_frames: int,
        num_mel_bins: int,
        mean: float,
        std: float,
        sample_rate: int,
        statistics: Literal["auto"] | None = None,
    ) -> None:
        super().__init__()
        positive(std=std)
        at_least(1, num_frames=num_frames)
        at_least(4, num_mel_bins=num_mel_bins)
        within(1000, 768_000, sample_rate=sample_rate)
        at_most(1e6, num_frames=num_frames, mean=abs(mean), std=std)
        at_most(4096, num_mel_bins=num_mel_bins)
        self.num_frames = num_frames
        self.num_mel_bins = num_mel_bins
        self.awaits_statistics = statistics == "auto"
        self.mean = math.nan if self.awaits_statistics else mean
        self.std = math.nan if self.awaits_statistics else std
        self.sample_rate = sample_rate
        self.window_length = int(sample_rate * 0.025)
        self.hop_length = int(sample_rate * 0.010)
        self.expects_length = True
        self.fft_length = 1 << (self.window_length - 1).bit_length()
        # A plain dict: these are no part of this module.
        self._of_length: dict[int, Self] = {}

    def architecture(self) -> dict[str, Any]:
        """Constructor arguments that build this front end again; without ``statistics`` where they are known."""
        arguments = super().architecture()
        return {name: value for name, value in arguments.items() if name != "statistics" or self.awaits_statistics}

    def with_statistics(self, mean: float, std: float) -> Self:
        """The same front end with this mean and standard deviation of the log-mels.

        Raises:
            ValueError: If a value is out of its range, such as the standard deviation of silence.
        """
        known = {name: value for name, value in self.architecture().items() if name != "statistics"}
        return type(self)(**known | {"mean": mean, "std": std})

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Waveforms (B, T) to features (B, L, F) in float32."""
        raise NotImplementedError

    def log_mel(self, waveform_BT: Tensor) -> Tensor:
        """Log-mels (B, L', F) of waveforms (B, T), T at least one window: whole windows only, not normalised."""
        raise NotImplementedError

    def spectrum(self, windows_BLW: Tensor) -> Tensor:
        """Windows of samples (B, L, W) to their complex spectrum (B, L, K): the linear part of :meth:`log_mel`."""
        raise NotImplementedError

    def for_export(self, column_frames: int) -> nn.Module:
        """The same features from convolutions and products alone, for formats that have no Fourier transform.

        Args:
            column_frames: Frames to a column of the encoder.

        Returns:
            A module of waveforms (B, T), of one length each time, at least a window, to features (B, L, F): L is the
            clip's own number of frames, rounded up to whole columns as :class:`~sslam.embedding.AudioEmbedder` does.

        Raises:
            UsageError: If this front end has no such form.
        """
        raise UsageError(
            f"{type(self).__name__} has no for_export, so it cannot become part of a graph. Leave --onnx out."
        )

    def mel_banks(self, low_frequency: float, high_frequency: float) -> Tensor:
        """Weights (K, F) of Kaldi's triangles between two frequencies in Hz; 0 stands for half the sample rate."""
        banks_FK, _ = get_mel_banks(
            self.num_mel_bins,
            self.fft_length,
            float(self.sample_rate),
            low_freq=low_frequency,
            high_freq=high_frequency,
            vtln_low=100.0,
            vtln_high=-500.0,
            vtln_warp_factor=1.0,
        )
        # Kaldi gives no weight to the Nyquist bin.
        return F.pad(banks_FK, (0, 1)).T.contiguous()

    def frames_in(self, num_samples: Tensor) -> Tensor:
        """Frames of clips of ``num_samples`` samples; 0 of those that are too short for any."""
        raise NotImplementedError

    def frames_of(self, num_samples: int) -> int:
        """Frames of a clip of ``num_samples`` samples, at least 1."""
        return max(1, int(self.frames_in(torch.tensor(num_samples))))

    @property
    def log_scale(self) -> float:
        """How much the natural logarithm of the power rises with the features by one; what they are divided by."""
        raise UsageError(
            f"{type(self).__name__} does not say what its features are divided by (log_scale), which the background "
            "and level of a view need. Leave clip_contrast out, or add the property."
        )

    @property
    def crop_samples(self) -> int:
        """Samples that the frames hear: 15 600 for 96 frames of 25 ms every 10 ms."""
        return self.window_length + (self.num_frames - 1) * self.hop_length

    def _warn_of_other_length(self, num_samples: int) -> None:
        frames = int(self.frames_in(torch.tensor(num_samples)))
        # A clip of 1 s fills 98 of the published 128 frames, one of 10 s 998 of 1024.
        fits = 0.75 * self.num_frames <= frames <= 1.05 * self.num_frames
        if self.expects_length and not fits and num_samples != self.crop_samples:
            warnings.warn(
                f"Clips of {num_samples / self.sample_rate:g} s have {frames} frames, and the front end makes "
                f"{self.num_frames} of them by {'padding' if frames < self.num_frames else 'cutting off the end'}. "
                f"Set the front end's num_frames to {self.usual_num_frames}, or change the length of the clips.",
                stacklevel=3,
            )

    def of_length(self, num_samples: int) -> Self:
        """The same front end with as many frames as clips of ``num_samples`` samples have.

        It is built once for each number of frames and kept, on the device that it was last moved to.
        """
        num_frames = self.frames_of(num_samples)
        if num_frames not in self._of_length:
            self._of_length[num_frames] = type(self)(**self.architecture() | {"num_frames": num_frames})
        return self._of_length[num_frames]
