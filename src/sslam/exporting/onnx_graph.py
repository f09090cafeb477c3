"""An encoder with its front end as an ONNX graph: waveforms in, tokens and embeddings out.

The front end is inside, its Fourier transform as a convolution. Shape letters: B clips, T samples, P patches, D width,
W pooled width, C classes.
"""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslam.checkpoints.loading import Checkpoint
from sslam.embedding import AudioEmbedder
from sslam.embedding.embedder import Classifier, classifier_of
from sslam.errors import UsageError
from sslam.networks.pooling import pool_tokens

TOLERANCE = 1e-4
CHECKED_SECONDS = (0.4, 1.0, 2.3)
CHECKED_CLIPS = (1, 3)
NEEDED = "ONNX needs the packages onnx, onnxscript and onnxruntime. Install them with pip install 'sslam[onnx]'."


class EncoderGraph(nn.Module):
    """Waveforms (B, T) to tokens (B, 1 + P, D), the CLS token (B, D) and, with a classifier, probabilities (B, C)."""

    def __init__(self, frontend: nn.Module, encoder: nn.Module, classifier: Classifier | None) -> None:
        super().__init__()
        self.frontend = frontend
        self.encoder = encoder
        self.classifier = classifier
        self.head = None if classifier is None else classifier.head

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        tokens_BPD = self.encoder(self.frontend(waveform))
        outputs = (tokens_BPD, pool_tokens(tokens_BPD, "cls"))
        if self.classifier is None or self.head is None:
            return outputs
        logits_BC = self.head(pool_tokens(tokens_BPD, self.classifier.pooling))
        return (*outputs, self.classifier.probabilities(logits_BC))


def write_onnx(checkpoint: Checkpoint, path: Path) -> tuple[str, ...]:
    """Write the graph and compare what onnxruntime makes of it with :class:`~sslam.embedding.AudioEmbedder`.

    Args:
        checkpoint: An encoder that states its front end.
        path: File to write; weights of more than 2 GB need a second one, which is not written.

    Returns:
        What it takes and gives, in words, line by line.

    Raises:
        UsageError: If a package is missing, the networks have no such form, or the numbers differ by more than 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        raise UsageError(NEEDED) from error
    embedder = AudioEmbedder.of(checkpoint, device="cpu")
    graph = EncoderGraph(
        embedder.frontend.for_export(embedder.encoder.patch_size), embedder.encoder, classifier_of(checkpoint)
    ).eval()
    names = ["tokens", "embedding", "probabilities"][: 3 if embedder.classifier else 2]
    longest = (embedder.max_columns * embedder.encoder.patch_size - 1) * embedder.frontend.hop_length
    example = torch.zeros(2, embedder.sample_rate)
    shapes = ({0: torch.export.Dim("clips", min=1), 1: torch.export.Dim("samples", min=MIN_SAMPLES, max=longest)},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph, (example,), path, input_names=["waveform"], output_names=names, dynamic_shapes=shapes, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
    return ()
