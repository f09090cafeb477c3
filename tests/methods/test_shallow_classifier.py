"""The shallow classifier: a linear probe with a hidden layer, whose checkpoint is an encoder alone."""

from typing import Any

import pytest
import torch

from sslam.frontends import KaldiFbank, LogMel
from sslam.losses import CrossEntropy
from sslam.methods import LinearProbe
from sslam.networks import AudioViT, Encoder, MeanFeatures

SHALLOW = {"hidden_width": 24, "normalisation": "l2", "standardise": False, "selection_fraction": 0.1}


def shallow(encoder: Encoder, **changes: Any) -> LinearProbe:
    arguments: dict[str, Any] = {"frontend": KaldiFbank(num_frames=128), "loss": CrossEntropy(), "num_classes": 4}
    return LinearProbe(encoder=encoder, **(arguments | SHALLOW | changes))


def test_shallow_classifier__learns_and_holds_some_clips_out(
    tones: Any, quiet_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # A rate that learns nothing, and one that does: the choice is no accident.
    changes = {"learning_rates": [1e-9, 1e-2], "seeds": [0, 1], "epochs": 80, "batch_size": 16}
    model = shallow(MeanFeatures(64), frontend=LogMel(num_frames=128), **changes)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    with caplog.at_level("INFO"):
        trainer.fit(model, tones())
    assert model.learning_rate == 1e-2
    assert any(said.startswith("ShallowClassifier: 36 clips, 2 seeds, learning rate 0.01") for said in caplog.messages)
    (metrics,) = trainer.test(model, tones(), verbose=False)
    assert metrics["test/accuracy"] > 0.8
    assert (model.name, len(model.results)) == ("ShallowClassifier", 2)
    fresh = shallow(MeanFeatures(64), frontend=LogMel(num_frames=128), **changes)
    for probe, other in zip(model.probes, fresh.probes, strict=True):
        assert not torch.allclose(probe.hidden.weight, other.hidden.weight, atol=1e-4)  # type: ignore[union-attr,arg-type]


def test_shallow_classifier__its_checkpoint_is_read_as_an_encoder_and_goes_on(
    tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any, tmp_path: Any
) -> None:
    from sslam.checkpoints import read_checkpoint

    model = shallow(tiny_encoder, learning_rates=[1e-2], epochs=5, batch_size=16)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(model, tones())
    trainer.save_checkpoint(tmp_path / "shallow.ckpt")
    (expected,) = trainer.test(model, tones(), verbose=False)
    checkpoint = read_checkpoint(tmp_path / "shallow.ckpt")
    assert checkpoint.kind == "contrastive"  # an encoder alone
    assert checkpoint.class_names == []
    state = checkpoint.build_encoder().state_dict()
    assert all(torch.equal(state[name], value) for name, value in tiny_encoder.state_dict().items())
    again = shallow(AudioViT(width=32, depth=2, num_heads=2))
    (metrics,) = quiet_trainer().test(
        again, tones(), ckpt_path=tmp_path / "shallow.ckpt", weights_only=True, verbose=False
    )
    assert metrics == expected
    data = tones()
    data.setup("test")
    data.predict_set = data.test_set
    predictions = quiet_trainer().predict(again, data)
    assert predictions[0]["probabilities"].sum(dim=1).allclose(torch.ones(8))
