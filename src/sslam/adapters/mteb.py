"""MTEB's audio tasks (MAEB): a model for ``mteb.evaluate``, and one command that evaluates a checkpoint.

    python -m sslam.adapters.mteb CHECKPOINT --task ESC50 --task BeijingOpera
    python -m sslam.adapters.mteb CHECKPOINT --check

The second runs MTEB's own mock tasks, which need no data.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sslam.checkpoints.location import resolve
from sslam.embedding import AudioEmbedder
from sslam.networks.pooling import Pooling


class MtebAudioModel:
    """What MTEB calls an encoder: batches of recordings in, vectors out.

    Args:
        checkpoint: A file, a folder or ``hf://owner/name[@revision][/file]``.
        pooling: See :class:`~sslam.embedding.AudioEmbedder`.
        device: Likewise.
    """

    def __init__(self, checkpoint: str | Path, pooling: Pooling = "cls", device: str | None = None) -> None:
        self.location = resolve(checkpoint)
        self.embedder = AudioEmbedder.from_checkpoint(self.location.address, device=device, pooling=pooling)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """What MTEB states of the model; needs ``mteb``."""
        from mteb.models.model_meta import ModelMeta

        stated = {
            "name": f"sslam/{self.location.name}",
            "revision": self.location.revision or "local",
            "modalities": ["audio"],
            "embed_dim": self.embedder.clip_width,
            "n_parameters": sum(parameter.numel() for parameter in self.embedder.encoder.parameters()),
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine",
        }
        return ModelMeta.create_empty(stated)

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> NDArray[np.float32]:
        """Vectors (N, W) of the recordings of all batches.

        Args:
            inputs: Batches with ``audio``, a list of recordings with their ``array``, (T,) or (C, T), of any length,
                and ``sampling_rate``.

        Raises:
            ValueError: If a batch has no audio, or a recording holds no sample.
        """
        vectors = [self.embed(item["array"], item["sampling_rate"]) for batch in inputs for item in _audio_of(batch)]
        return np.stack(vectors)

    def embed(self, array: ArrayLike, sample_rate: int | None) -> NDArray[np.float32]:
        """The vector (W,) of a recording; short ones are filled up with zeros to one window of 25 ms."""
        samples = np.asarray(array, np.float32)
        mono_T = samples.mean(axis=0) if samples.ndim == 2 else samples
        if mono_T.ndim != 1 or not mono_T.size:
            raise ValueError(f"A recording must have the shape (T,) or (C, T), got {samples.shape}. Leave it out.")
        if sample_rate not in (None, self.embedder.sample_rate):
            mono_T = soxr.resample(mono_T, sample_rate, self.embedder.sample_rate)
        missing = self.embedder.frontend.window_length - len(mono_T)
        vector_W: NDArray[np.float32] = self.embedder(np.pad(mono_T, (0, max(0, missing)))).clip[0].cpu().numpy()
        return vector_W

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Tensor:
        """Cosines of all pairs, (N, M)."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Tensor:
        """Cosines of vectors that stand side by side, (N,)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)


def _audio_of(batch: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if "audio" not in batch:
        raise ValueError(f"The model takes audio, and a batch has {', '.join(batch)} only. Choose audio tasks.")
    audio: Sequence[Mapping[str, Any]] = batch["audio"]
    return audio


def _unit(embeddings: ArrayLike) -> Tensor:
    return F.normalize(torch.as_tensor(np.asarray(embeddings), dtype=torch.float32), dim=-1)


def main(args: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint on tasks of MTEB, or check it on mock tasks.

    Returns:
        Exit code: 1 if a mock task fails.
    """
    parser = argparse.ArgumentParser(
        "python -m sslam.adapters.mteb", description="Any checkpoint on MTEB's audio tasks."
    )
    parser.add_argument("checkpoint", help="a file, a folder or hf://OWNER/NAME[@REVISION][/FILE]")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", action="append", metavar="NAME", help="name of a task, such as ESC50; once or more")
    what.add_argument("--check", action="store_true", help="MTEB's mock tasks, which need no data")
    options = parser.parse_args(args)
    import mteb

    model: Any = MtebAudioModel(options.checkpoint)
    if options.check:
        results = mteb.mock_run(model)
        sys.stdout.write(results.to_markdown() + "\n")
        return 0 if results.all_passed else 1
    results = mteb.evaluate(model, tasks=mteb.get_tasks(tasks=options.task))
    for result in results.task_results:
        sys.stdout.write(f"{result.task_name}: {result.get_score():.4f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
