"""HEAR 2021's rules for a module: names, attributes, shapes, types, and regular timestamps in milliseconds."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sslam.adapters import hear
from sslam.frontends import LogMel
from tests.checkpoints.test_contrastive import LOG_MEL, cnn14, contrastive_run
from tests.embedding.conftest import classifier, pre_trained

__all__ = ["classifier", "pre_trained"]


@pytest.fixture
def contrastive(tmp_path: Path) -> Path:
    return contrastive_run(tmp_path / "last.ckpt", cnn14(), LogMel(**LOG_MEL))


@pytest.mark.parametrize("kind", ["pre_trained", "classifier", "contrastive"])
def test_hear__follows_the_rules_of_the_interface(kind: str, request: pytest.FixtureRequest) -> None:
    model = hear.load_model(str(request.getfixturevalue(kind)))
    assert isinstance(model, nn.Module)
    assert model.sample_rate in (16_000, 22_050, 44_100, 48_000)
    assert isinstance(model.scene_embedding_size, int)
    assert isinstance(model.timestamp_embedding_size, int)
    assert len(list(model.to("cpu").parameters())) > 0
    audio = 2 * torch.rand(16, 2 * model.sample_rate) - 1
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (*timestamps.shape, model.timestamp_embedding_size)
    assert len(embeddings) == 16
    gaps = timestamps.diff()
    assert (gaps - gaps.mean()).abs().max() < 1e-3
    assert 0 < gaps.mean() <= 50
    assert timestamps[0, 0] > 0
    assert 2000 - 200 < timestamps[0, -1] < 2000 + 100
    scenes = hear.get_scene_embeddings(audio[:8, : round(3.74 * model.sample_rate)], model)
    assert (scenes.dtype, scenes.shape) == (torch.float32, (8, model.scene_embedding_size))
    assert not scenes.requires_grad


def test_get_scene_embeddings__do_not_depend_on_the_batch(pre_trained: Path) -> None:
    model = hear.load_model(pre_trained)
    audio = torch.rand(3, 20_000)
    alone = torch.cat([hear.get_scene_embeddings(clip[None], model) for clip in audio])
    torch.testing.assert_close(hear.get_scene_embeddings(audio, model), alone, rtol=1e-5, atol=1e-5)


def test_get_timestamp_embeddings__are_the_columns_of_what_is_heard_from_there(pre_trained: Path) -> None:
    model = hear.load_model(pre_trained)
    audio = torch.rand(1, 16_000)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert model.num_shifts == 4
    for number in range(4):
        part = model.embedder(audio[:, 640 * number :])
        torch.testing.assert_close(embeddings[:, number::4], part.frames)
        torch.testing.assert_close(timestamps[:, number::4], 1000 * part.times[None] + 40 * number, rtol=0, atol=1e-2)


@pytest.mark.parametrize("num_samples", [400, 1_000, 1_039, 1_040, 3_000])
def test_get_timestamp_embeddings__of_short_clips_are_regular(pre_trained: Path, num_samples: int) -> None:
    embeddings, timestamps = hear.get_timestamp_embeddings(torch.rand(2, num_samples), hear.load_model(pre_trained))
    assert embeddings.shape[:2] == timestamps.shape
    torch.testing.assert_close(timestamps.diff(), torch.full_like(timestamps[:, 1:], 40.0), rtol=0, atol=1e-3)


def test_load_model__needs_a_checkpoint() -> None:
    with pytest.raises(ValueError, match="HEAR's load_model needs a checkpoint"):
        hear.load_model()
