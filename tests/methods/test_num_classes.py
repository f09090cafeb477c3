"""The number of classes comes from the data or from a checkpoint, and a head is the same whenever it is made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from sslam.frontends import KaldiFbank
from sslam.losses import CrossEntropy
from sslam.methods import FineTune, LinearProbe
from sslam.methods.classifier import Classifier
from sslam.networks import AudioViT
from sslam.transforms import Augmentation


def fine_tune(**changes: Any) -> FineTune:
    torch.manual_seed(0)
    encoder = AudioViT(width=32, depth=2, num_heads=2)
    fixed: dict[str, Any] = {"frontend": KaldiFbank(num_frames=128), "loss": CrossEntropy(), "encoder": encoder}
    return FineTune(Augmentation(), learning_rate=3e-3, **(fixed | changes))


def linear_probe(**changes: Any) -> LinearProbe:
    torch.manual_seed(0)
    encoder = AudioViT(width=32, depth=2, num_heads=2)
    fixed: dict[str, Any] = {"frontend": KaldiFbank(num_frames=128), "loss": CrossEntropy(), "encoder": encoder}
    return LinearProbe(**(fixed | {"epochs": 3} | changes))


def assert_equal(first: Classifier, second: Classifier) -> None:
    states = first.state_dict(), second.state_dict()
    assert [*states[0]] == [*states[1]]
    assert {"fc_norm.weight", "head.weight", "head.bias"} <= states[0].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("drawn_between", [0, 5])
def test_num_classes__of_the_data_makes_the_same_head(drawn_between: int, tones: Any, quiet_trainer: Any) -> None:
    given, later = fine_tune(num_classes=4), fine_tune()
    assert "head.weight" not in later.state_dict()
    torch.rand(drawn_between)  # as a data module may
    for model in (given, later):
        quiet_trainer().validate(model, tones(), verbose=False)
    assert later.num_classes == 4
    assert_equal(given, later)


@pytest.mark.parametrize(("method", "limits"), [(fine_tune, {"max_steps": 3}), (linear_probe, {"max_epochs": 1})])
def test_num_classes__of_the_data_trains_the_same(method: Any, limits: Any, tones: Any, quiet_trainer: Any) -> None:
    models = [method(num_classes=4), method()]
    for model in models:
        torch.manual_seed(7)
        data = tones(training_augmentation=method is fine_tune)
        quiet_trainer(**limits, limit_val_batches=0).fit(model, data)
        quiet_trainer().test(model, data, verbose=False)
    assert_equal(*models)


def test_num_classes__is_read_from_a_checkpoint(tones: Any, quiet_trainer: Any, tmp_path: Path) -> None:
    straight = fine_tune()
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = quiet_trainer(max_steps=4, limit_val_batches=0, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(straight, tones(training_augmentation=True))
    (expected,) = trainer.test(straight, tones(), verbose=False)
    trainer.save_checkpoint(tmp_path / "end.ckpt")

    resumed = fine_tune()
    trainer = quiet_trainer(max_steps=4, limit_val_batches=0)
    trainer.fit(resumed, tones(training_augmentation=True), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert_equal(straight, resumed)

    checkpoint = {"ckpt_path": tmp_path / "end.ckpt", "weights_only": True}
    (metrics,) = quiet_trainer().test(fine_tune(), tones(), **checkpoint, verbose=False)
    assert metrics == expected

    data = tones()
    data.setup("test")
    data.predict_set = data.test_set
    predictions = quiet_trainer().predict(fine_tune(), data, **checkpoint)
    assert torch.cat([batch["probabilities"] for batch in predictions]).shape == (21, 4)

    loaded = FineTune.load_from_checkpoint(
        tmp_path / "end.ckpt",
        weights_only=True,
        augmentation=Augmentation(),
        frontend=KaldiFbank(num_frames=128),
        loss=CrossEntropy(),
        encoder=AudioViT(width=32, depth=2, num_heads=2),
    )
    assert_equal(straight, loaded)


def test_num_classes__that_disagree_are_refused(tones: Any, quiet_trainer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Tones has 4 classes and the model 5\. Leave num_classes out, and give data"):
        quiet_trainer().test(fine_tune(num_classes=5), tones(), verbose=False)

    class OneMore(tones):  # type: ignore[misc]
        class_names = (*tones.class_names, "none")

    model = fine_tune()
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(model, tones(training_augmentation=True))
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    with pytest.raises(ValueError, match=r"The checkpoint has 4 classes and the model 5\."):
        quiet_trainer().test(fine_tune(), OneMore(), ckpt_path=tmp_path / "four.ckpt", weights_only=True, verbose=False)
    with pytest.raises(ValueError, match=r"num_classes must be at least 2, got 1\."):
        fine_tune(num_classes=1)
    with pytest.raises(ValueError, match=r"The number of classes is not known\. Give num_classes, or load"):
        fine_tune()(torch.zeros(1, 128, 128))
