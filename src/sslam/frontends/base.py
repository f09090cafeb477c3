"""What every front end is. Shape letters: B clips, T samples, L frames, F mel bins."""

from typing import Any, Self

from torch import Tensor, nn


class Frontend(nn.Module):
    """Base of every front end: waveforms on the batch's device to features. It learns nothing.

    Attributes:
        sample_rate: Rate of the waveforms in Hz.
        num_mel_bins: Mel bins F of the features.
        num_frames: Frames L of the features.
        window_length: Samples that a frame hears.
        hop_length: Samples from the beginning of a frame to that of the next one.
    """

    sample_rate: int
    num_mel_bins: int
    num_frames: int
    window_length: int
    hop_length: int

    def __init__(self) -> None:
        super().__init__()
        # A plain dict: these are no part of this module.
        self._of_length: dict[int, Self] = {}

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Waveforms (B, T) to features (B, L, F) in float32."""
        raise NotImplementedError

    def architecture(self) -> dict[str, int | float]:
        """Arguments that build this front end."""
        raise NotImplementedError

    def frames_of(self, num_samples: int) -> int:
        """Frames of a clip of ``num_samples`` samples, at least 1."""
        raise NotImplementedError

    def frames_in(self, num_samples: Tensor) -> Tensor:
        """:meth:`frames_of` of several clips; 0 of those that are too short for any."""
        raise NotImplementedError

    @property
    def crop_samples(self) -> int:
        """Samples that the frames hear: 15 600 for 96 frames of 25 ms every 10 ms."""
        return self.window_length + (self.num_frames - 1) * self.hop_length

    def of_length(self, num_samples: int) -> Self:
        """The same front end with as many frames as clips of ``num_samples`` samples have.

        It is built once for each number of frames and kept, on the device that it was last moved to.
        """
        num_frames = self.frames_of(num_samples)
        if num_frames not in self._of_length:
            arguments: dict[str, Any] = self.architecture() | {"num_frames": num_frames}
            self._of_length[num_frames] = type(self)(**arguments)
        return self._of_length[num_frames]
