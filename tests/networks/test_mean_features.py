"""The features as an encoder."""

import pytest
import torch

from sslam.networks import MeanFeatures
from sslam.networks.pooling import pool_tokens


def test_mean_features__tokens_are_the_mean_and_the_frames() -> None:
    features = torch.arange(24.0).reshape(2, 3, 4)
    tokens = MeanFeatures(4)(features)
    assert tokens.shape == (2, 4, 4)
    assert tokens[0, 0].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert torch.equal(tokens[:, 1:], features)
    assert torch.equal(pool_tokens(tokens, "cls"), pool_tokens(tokens, "mean"))


def test_mean_features__has_no_weights_and_is_built_by_its_architecture() -> None:
    encoder = MeanFeatures(**MeanFeatures(96).architecture())
    assert (encoder.width, encoder.num_mel_bins, encoder.depth) == (96, 96, 0)
    assert not encoder.state_dict()


def test_mean_features__refuses_other_features() -> None:
    with pytest.raises(ValueError, match="built for 64 mel bins, got features with 128. Give the front end and"):
        MeanFeatures()(torch.zeros(1, 10, 128))
    with pytest.raises(ValueError, match="num_mel_bins must be at least 1, got 0."):
        MeanFeatures(0)
