"""HEAR 2021's common interface: a module that its runner is given, with a checkpoint of ours as the model's file.

    python -m heareval.embeddings.runner sslam.adapters.hear --model CHECKPOINT --tasks-dir hear-tasks

Shape letters: B clips, T samples, L timestamps, D width, W pooled width.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from sslam.embedding import AudioEmbedder
from sslam.embedding.embedder import HOP_SECONDS

MOST_MILLISECONDS = 50.0  # between timestamps, as HEAR suggests


class HearModel(nn.Module):
    """An embedder with the attributes that HEAR asks for.

    Attributes:
        sample_rate: Rate of the audio in Hz.
        scene_embedding_size: W.
        timestamp_embedding_size: D.
    """

    def __init__(self, embedder: AudioEmbedder) -> None:
        super().__init__()
        self.embedder = embedder
        self.encoder = embedder.encoder  # so that .to(device) and parameters() find it
        self.sample_rate: int = embedder.sample_rate
        self.scene_embedding_size: int = embedder.clip_width
        self.timestamp_embedding_size: int = embedder.encoder.width

    @property
    def num_shifts(self) -> int:
        """How often a clip is heard, each time from a little later on, so that timestamps are 50 ms apart at most."""
        patch_size = self.embedder.encoder.patch_size
        shifts = (number for number in range(1, patch_size + 1) if patch_size % number == 0)
        return next(n for n in shifts if 1000 * HOP_SECONDS * patch_size / n <= MOST_MILLISECONDS)


def load_model(model_file_path: str | Path = "") -> HearModel:
    """The model of a checkpoint: a file, a folder or ``hf://owner/name``.

    Args:
        model_file_path: There is no default model; the argument may be left out in the interface only.

    Raises:
        ValueError: If none is given.
        CheckpointError: If it cannot be used.
    """
    if not str(model_file_path):
        raise ValueError("HEAR's load_model needs a checkpoint, since no weights come with sslam. Give --model FILE.")
    return HearModel(AudioEmbedder.from_checkpoint(model_file_path, device="cpu"))


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One vector for each clip.

    Args:
        audio: (B, T) in [-1, 1] at ``model.sample_rate``.
        model: What :func:`load_model` gave, on the audio's device.

    Returns:
        (B, W), float32.
    """
    return model.embedder.to(audio.device)(audio).clip


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """One vector every 40 ms, and when: the columns of the clip heard from 0, 40, 80 and 120 ms on, in turn.

    Columns of 16 frames are 160 ms apart, which is too coarse for HEAR's tasks of events and notes.

    Args:
        audio: (B, T) in [-1, 1] at ``model.sample_rate``.
        model: What :func:`load_model` gave, on the audio's device.

    Returns:
        Embeddings (B, L, D), float32, and the centres of what they hear in milliseconds, (B, L), which rise regularly.
    """
    embedder = model.embedder.to(audio.device)
    shift = embedder.encoder.patch_size * embedder.frontend.hop_length // model.num_shifts
    starts = [number * shift for number in range(model.num_shifts)]
    heard = [start for start in starts if audio.shape[1] - start >= embedder.frontend.window_length]
    shifted = [embedder(audio[:, start:]) for start in heard]
    times_L = torch.cat([part.times + start / model.sample_rate for part, start in zip(shifted, heard, strict=True)])
    order_L = times_L.argsort()
    frames_BLD = torch.cat([part.frames for part in shifted], dim=1)[:, order_L]
    milliseconds_L = 1000 * times_L[order_L].double()
    return frames_BLD, milliseconds_L.float().expand(len(audio), -1)
