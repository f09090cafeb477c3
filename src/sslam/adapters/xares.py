"""X-ARES: an encoder class for its runner, which makes it without arguments; the checkpoint is in the environment.

    SSLAM_CHECKPOINT=CHECKPOINT python -m xares.run sslam/adapters/xares.py TASKS/*.py

Exactly one name of this module may end in "Encoder", which is how the runner finds the class.
"""

import os

import torch
from torch import Tensor, nn

from sslam.embedding import AudioEmbedder

CHECKPOINT = "SSLAM_CHECKPOINT"


class SslamEncoder(nn.Module):
    """Waveforms (B, T) to one vector for every column of patches, (B, L, D).

    Attributes:
        sampling_rate: Rate of the waveforms in Hz.
        output_dim: D.
        hop_size_in_ms: Time from a column to the next one.

    Args:
        checkpoint: A file, a folder or ``hf://owner/name``; by default what ``SSLAM_CHECKPOINT`` names.

    Raises:
        ValueError: If none is given.
        CheckpointError: If it cannot be used.
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        super().__init__()
        checkpoint = checkpoint or os.environ.get(CHECKPOINT)
        if not checkpoint:
            raise ValueError(f"X-ARES makes its encoder without arguments. Name the checkpoint in {CHECKPOINT}.")
        self.embedder = AudioEmbedder.from_checkpoint(checkpoint, device="cpu")
        self.model = self.embedder.encoder  # so that .to(device) finds it
        self.sampling_rate = self.embedder.sample_rate
        self.output_dim = self.embedder.encoder.width
        self.hop_size_in_ms = (
            1000 * self.embedder.encoder.patch_size * self.embedder.frontend.hop_length / self.sampling_rate
        )

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """Waveforms (T,) or (B, T), in [-1, 1], to vectors (B, L, D)."""
        return self.embedder.to(audio.device)(audio.float()).frames
