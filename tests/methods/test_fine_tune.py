"""Fine-tuning: everything learns at its own rate, resumes exactly, and keeps what is needed to use the classifier."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from sslam.checkpoints.loading import file_sha256, read_checkpoint
from sslam.frontends import KaldiFbank
from sslam.losses import CrossEntropy
from sslam.methods import FineTune
from sslam.networks import AudioViT
from sslam.optim import layer_decayed_groups
from sslam.transforms import Augmentation


def fine_tune_of(encoder: AudioViT | None = None, **changes: Any) -> FineTune:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "augmentation": Augmentation(mixup_alpha=0),
        "frontend": KaldiFbank(num_frames=128),
        "loss": CrossEntropy(),
        "num_classes": 4,
        "learning_rate": 3e-3,
        "pooling": "both",
    }
    return FineTune(encoder=encoder, **(arguments | changes))


def small_encoder() -> AudioViT:
    torch.manual_seed(1)
    return AudioViT(width=32, depth=2, num_heads=2)


def test_fine_tune__learns_tones_with_all_its_weights(tones: Any, quiet_trainer: Any) -> None:
    model = fine_tune_of(small_encoder())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = quiet_trainer(max_epochs=12, limit_val_batches=0)
    trainer.fit(model, tones(training_augmentation=True))
    assert all(not torch.equal(before[name], value) for name, value in model.named_parameters())
    (metrics,) = trainer.test(model, tones(), verbose=False)
    assert metrics["test/accuracy"] > 0.6  # chance is 0.25


@pytest.mark.parametrize("exempt_1d", [False, True])
def test_layer_decayed_groups__every_parameter_once(exempt_1d: bool) -> None:
    encoder, head = AudioViT(width=16, depth=3, num_heads=2), torch.nn.Linear(16, 2)
    groups = layer_decayed_groups(encoder, [head], 1.0, 0.5, 0.1, exempt_1d)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for module in (encoder, head) for parameter in module.parameters())
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.0 if exempt_1d and parameter.ndim < 2 else 0.1)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert [rate[id(block.mlp.fc1.weight)] for block in encoder.blocks] == [0.125, 0.25, 0.5]
    assert rate[id(encoder.patch_embed.weight)] == rate[id(encoder.cls_token)] == rate[id(head.bias)] == 1.0


@pytest.mark.parametrize("changes", [{}, {"freeze_encoder": True, "seeds": [0, 1]}], ids=["whole", "frozen"])
def test_fine_tune__epsilon_is_added_as_fairseq_does(changes: dict[str, Any], tones: Any, quiet_trainer: Any) -> None:
    found = []

    class Epsilon(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
            found.append({group["eps"] for group in optimizer.param_groups})

    model = fine_tune_of(small_encoder(), **changes)
    quiet_trainer(max_steps=3, callbacks=[Epsilon()]).fit(model, tones(training_augmentation=True))
    assert found == [{1e-8 / (1 - 0.95**step) ** 0.5} for step in (1, 2, 3)]


def test_fine_tune__resumes_where_it_stopped(tones: Any, quiet_trainer: Any, tmp_path: Path) -> None:
    straight = fine_tune_of(small_encoder())
    trainer = quiet_trainer(max_steps=10, max_epochs=-1)
    trainer.fit(straight, tones(training_augmentation=True))

    keep = ModelCheckpoint(tmp_path, "seven", every_n_train_steps=7)
    quiet_trainer(max_steps=10, max_epochs=-1, enable_checkpointing=True, callbacks=[keep]).fit(
        fine_tune_of(small_encoder()), tones(training_augmentation=True)
    )
    resumed = fine_tune_of(small_encoder())
    quiet_trainer(max_steps=10, max_epochs=-1).fit(
        resumed, tones(training_augmentation=True), ckpt_path=tmp_path / "seven.ckpt", weights_only=True
    )
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_fine_tune__checkpoint_is_a_classifier_that_can_be_read(tones: Any, quiet_trainer: Any, tmp_path: Path) -> None:
    model = fine_tune_of(small_encoder())
    trainer = quiet_trainer(max_steps=2, max_epochs=-1)
    trainer.fit(model, tones(training_augmentation=True))
    path = tmp_path / "tuned.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind == "fine_tuned"
    assert checkpoint.class_names == list(tones.class_names)
    assert checkpoint.classifier == {"pooling": "both", "activation": "softmax"}
    assert checkpoint.networks["frontend"].arguments["num_frames"] == 128
    assert torch.equal(checkpoint.tensors["head.weight"], model.head.weight)
    # Its encoder is the start of another classifier; with `random` only its architecture is.
    again = fine_tune_of(initial_checkpoint=str(path), drop_path=0.2)
    assert torch.equal(again.encoder.cls_token, model.encoder.cls_token)
    assert again.encoder.blocks[-1].drop_path.drop_prob == 0.2
    assert again.provenance == {
        "label": "student of tuned",
        "weights": "student",
        "path": str(path),
        "sha256": file_sha256(path),
    }
    baseline = fine_tune_of(initial_checkpoint=str(path), weights="random")
    assert baseline.encoder.architecture() == model.encoder.architecture()
    assert not torch.equal(baseline.encoder.cls_token, model.encoder.cls_token)
    assert baseline.provenance["label"] == "random weights"


def test_fine_tune__predicts_probabilities(tones: Any, quiet_trainer: Any) -> None:
    model, data = fine_tune_of(small_encoder()), tones()
    data.setup("test")
    data.predict_set = data.test_set
    trainer = quiet_trainer()
    batches = trainer.predict(model, data.test_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(21))
    probabilities = torch.cat([batch["probabilities"] for batch in batches])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(21))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate must be greater than 0, got 0\.0\."),
        ({"layer_decay": 0.0}, r"layer_decay must be greater than 0 and at most 1, got 0\.0\."),
        ({"warmup_fraction": 1.0}, r"warmup_fraction must be at least 0 and less than 1, got 1\.0\."),
    ],
)
def test_fine_tune__refuses_wrong_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fine_tune_of(small_encoder(), **changes)
