"""The classifiers take CNN14 with log-mel features as they take the transformer."""

import copy
from typing import Any

import pytest
import torch

from sslam.frontends import KaldiFbank, LogMel
from sslam.losses import CrossEntropy
from sslam.methods import FineTune, LinearProbe
from sslam.networks import CNN14
from sslam.networks.pooling import Pooling
from sslam.optim import PEAK
from sslam.transforms import Augmentation


def arguments(**changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = CNN14(width=16, channels=(8, 16, 16, 32))
    return {"frontend": LogMel(num_frames=128), "loss": CrossEntropy(), "num_classes": 4, "encoder": encoder} | changes


@pytest.mark.parametrize("pooling", ["cls", "both"])
def test_linear_probe__of_cnn14_tells_tones_apart(tones: Any, quiet_trainer: Any, pooling: Pooling) -> None:
    model = LinearProbe(**arguments(pooling=pooling, epochs=30, batch_size=16, learning_rates=[1e-2], seeds=[0]))
    before = copy.deepcopy(model.encoder.state_dict())
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(model, tones())
    (metrics,) = trainer.test(model, tones(), verbose=False)
    assert metrics["test/accuracy"] > 0.9
    assert all(torch.equal(before[name], value) for name, value in model.encoder.state_dict().items())


def test_fine_tune__lower_layers_of_cnn14_learn_more_slowly(tones: Any, quiet_trainer: Any) -> None:
    model = FineTune(Augmentation(), layer_decay=0.5, learning_rate=1e-3, **arguments())
    groups = model.configure_optimizers().param_groups
    assert sorted({group[PEAK] for group in groups}) == [1e-3 / 16, 1e-3 / 8, 1e-3 / 4, 1e-3 / 2, 1e-3]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(model, tones())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_classifier__front_end_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="The front end's num_mel_bins must be the encoder's 64, got 128."):
        LinearProbe(**arguments(frontend=KaldiFbank(num_frames=128)))
