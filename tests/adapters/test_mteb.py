"""What MTEB asks of a model: vectors of batches of recordings, and similarities."""

from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from sslam.adapters.mteb import MtebAudioModel
from sslam.embedding import AudioEmbedder
from tests.embedding.conftest import pre_trained

__all__ = ["pre_trained"]


def noise(num_samples: int, *channels: int) -> np.ndarray:  # type: ignore[type-arg]
    return 0.1 * np.random.default_rng(num_samples).standard_normal((*channels, num_samples))


def test_encode__one_vector_for_each_recording_of_all_batches(pre_trained: Path) -> None:
    model = MtebAudioModel(pre_trained, device="cpu")
    stereo, low, short = noise(20_000, 2), noise(8_000), noise(100)
    batches = [
        {"audio": [{"array": stereo, "sampling_rate": 16_000}, {"array": low, "sampling_rate": 8_000}], "id": [1, 2]},
        {"audio": [{"array": short, "sampling_rate": None}]},
    ]
    vectors = model.encode(batches, task_metadata=None, hf_split="test", hf_subset="default", batch_size=2)
    embedder = AudioEmbedder.from_checkpoint(pre_trained, device="cpu")
    resampled = soxr.resample(low.astype(np.float32), 8_000, 16_000)
    waveforms = [stereo.astype(np.float32).mean(axis=0), resampled, np.pad(short, (0, 300))]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.concatenate([embedder(waveform).clip for waveform in waveforms]), atol=1e-5)


def test_similarity__is_the_cosine(pre_trained: Path) -> None:
    model = MtebAudioModel(pre_trained, device="cpu")
    first, second = noise(4, 3), noise(4, 2)
    norms = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)
    np.testing.assert_allclose(model.similarity(first, second), first @ second.T / norms, rtol=1e-5)
    torch.testing.assert_close(model.similarity_pairwise(first, first), torch.ones(3))


def test_encode__refuses_what_is_no_audio(pre_trained: Path) -> None:
    model = MtebAudioModel(pre_trained, device="cpu")
    with pytest.raises(ValueError, match="The model takes audio, and a batch has text only"):
        model.encode([{"text": ["a"]}])
    with pytest.raises(ValueError, match="must have the shape .T,. or .C, T."):
        model.encode([{"audio": [{"array": np.zeros(0), "sampling_rate": 16_000}]}])
