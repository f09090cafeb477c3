"""An encoder with its front end as an ONNX graph: waveforms in, tokens and embeddings out.

The front end is inside, its Fourier transform as a convolution. Shape letters: B clips, T samples, P patches, D width,
C classes.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sslam.checkpoints import UserClasses
from sslam.embedding import AudioEmbedder
from sslam.errors import UsageError
from sslam.networks.readout import encode

TOLERANCE = 1e-4
CHECKED_SECONDS = (0.4, 1.0, 2.3)
CHECKED_CLIPS = (1, 3)
LARGEST_FILE = 2**31 - 2**20  # bytes of a protobuf message


class EncoderGraph(nn.Module):
    """Waveforms (B, T) to tokens (B, 1 + P, D), the CLS token (B, D) and, of a classifier, probabilities (B, C)."""

    def __init__(self, embedder: AudioEmbedder) -> None:
        super().__init__()
        self.embedder = embedder
        self.encoder = embedder.encoder
        self.frontend = embedder.frontend.for_export(embedder.encoder.patch_size)
        self.head = None if embedder.classifier is None else embedder.classifier.head
        self.output_names = ["tokens", "embedding", *(["probabilities"] if self.head else [])]

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        classifier = self.embedder.classifier
        readouts = [self.embedder.readout, *([classifier.readout] if classifier else [])]
        tokens_BPD, of_layer = encode(self.encoder, self.frontend(waveform), readouts)
        vectors = [readout.of_tokens(self.encoder, tokens_BPD, of_layer) for readout in readouts]
        if self.head is None:
            return tokens_BPD, vectors[0]
        return tokens_BPD, vectors[0], self.embedder.probabilities(self.head(vectors[1]))


def write_onnx(weights: Path, path: Path, user_classes: UserClasses = ()) -> tuple[str, ...]:
    """Write the graph, and compare what onnxruntime makes of it with :class:`~sslam.embedding.AudioEmbedder`.

    Args:
        weights: Checkpoint of an encoder that states its front end.
        path: File to write.
        user_classes: See :func:`~sslam.checkpoints.read_checkpoint`.

    Returns:
        What it takes and gives, in words, line by line.

    Raises:
        UsageError: If a package is missing, the networks have no such form or too many weights, or the numbers differ
            by more than 1e-4.
    """
    _require_packages()
    embedder = AudioEmbedder.from_checkpoint(weights, device="cpu", user_classes=user_classes)
    if (size := weights.stat().st_size) > LARGEST_FILE:
        raise UsageError(f"The weights have {size} bytes, and an ONNX file at most {LARGEST_FILE}. Leave --onnx out.")
    graph = EncoderGraph(embedder).eval()
    encoder, frontend = embedder.encoder, embedder.frontend
    longest = embedder.max_columns * encoder.patch_size * frontend.hop_length
    clips, samples = torch.export.Dim("clips"), torch.export.Dim("samples", min=frontend.window_length, max=longest)
    example_BT = torch.zeros(2, embedder.sample_rate)
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            graph, (example_BT,), path, input_names=["waveform"], output_names=graph.output_names,
            dynamic_shapes=({0: clips, 1: samples},), dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    difference = largest_difference(path, embedder)
    if not difference <= TOLERANCE:
        raise UsageError(
            f"What onnxruntime makes of the graph differs by {difference:.2g} from the network ({TOLERANCE:g} is "
            "allowed). Leave --onnx out."
        )
    described = [
        f"`waveform`: float32 (clips, samples), mono at {embedder.sample_rate} Hz in [-1, 1], any number of clips of "
        f"one length, {frontend.window_length} to {longest} samples. The front end is part of the graph.",
        f"`tokens`: (clips, 1 + patches, {encoder.width}): one for the whole clip, then the patches, column by column.",
        f"`embedding`: (clips, {encoder.width}): the first token, as `embedder(waveform).clip` gives it.",
        f"`probabilities`: (clips, {embedder.num_classes}), in the order of the classes.",
    ][: 1 + len(graph.output_names)]
    return (*described, f"onnxruntime and PyTorch differ by {difference:.1g} at most, where they were compared.")


@torch.no_grad()
def largest_difference(path: Path, embedder: AudioEmbedder) -> float:
    """Between onnxruntime and the embedder, for noise of several lengths and numbers of clips; nan if not finite."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for seconds in CHECKED_SECONDS:
        for num_clips in CHECKED_CLIPS:
            shape = (num_clips, round(seconds * embedder.sample_rate))
            waveform_BT = 0.1 * torch.randn(shape, generator=generator)
            tokens_BPD, embedding_BD, *probabilities = session.run(None, {"waveform": waveform_BT.numpy()})
            expected = embedder(waveform_BT)
            num_columns = expected.frames.shape[1]
            frames_BLD = tokens_BPD[:, 1:].reshape(num_clips, num_columns, -1, tokens_BPD.shape[-1]).mean(axis=2)
            pairs = [(embedding_BD, expected.clip), (frames_BLD, expected.frames)]
            if expected.logits is not None:
                pairs.append((probabilities[0], embedder.probabilities(expected.logits)))
            differences += [np.abs(ours - theirs.numpy()).max() for ours, theirs in pairs]
    return float(np.max(differences))


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--onnx needs the package {error.name}. Install the extra: pip install 'sslam[onnx]'."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells developers of itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
