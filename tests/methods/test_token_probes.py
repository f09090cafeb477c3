"""Attentive and prototypical probes as methods: they learn, resume, and are tested from a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from callbacks import EvaluationResults
from sslam.checkpoints import load_encoder
from sslam.embedding import AudioEmbedder
from sslam.frontends import KaldiFbank
from sslam.losses import CrossEntropy
from sslam.methods import FineTune
from sslam.networks import AttentivePooling, AudioViT, PrototypicalPooling
from sslam.report.results import read_record
from sslam.transforms import Augmentation

POOLINGS = [AttentivePooling(num_heads=2), PrototypicalPooling(64)]


def probe_of(token_pooling: Any, **changes: Any) -> FineTune:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "augmentation": Augmentation(mixup_alpha=0, mask_ratio=0),
        "frontend": KaldiFbank(num_frames=128),
        "encoder": AudioViT(width=32, depth=2, num_heads=2),
        "loss": CrossEntropy(),
        "learning_rate": 1e-2,
        "drop_path": 0.0,
        "freeze_encoder": True,
        "token_pooling": token_pooling,
        "method_name": "TokenProbe",
        "seeds": [0, 1],
    }
    return FineTune(**(arguments | changes))


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_token_probe__tells_tones_apart_and_leaves_a_record(
    pooling: Any, tones: Any, quiet_trainer: Any, tmp_path: Path
) -> None:
    model = probe_of(pooling)
    before = [parameter.clone() for parameter in model.encoder.parameters()]
    logger = CSVLogger(tmp_path, "probe", "one")
    trainer = quiet_trainer(max_epochs=12, limit_val_batches=0, logger=logger, callbacks=[EvaluationResults()])
    trainer.fit(model, tones(training_augmentation=True))
    assert all(torch.equal(*pair) for pair in zip(before, model.encoder.parameters(), strict=True))
    (metrics,) = trainer.test(model, tones(), verbose=False)
    assert metrics["test/accuracy"] > 0.6  # chance is 0.25
    record = read_record(tmp_path / "probe/one/results-test.json")
    assert (record.method, record.readout, record.num_heads) == ("TokenProbe", "tokens", 2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    # The numbers of classes are the checkpoint's, and so are the heads.
    tested = probe_of(pooling)
    (found,) = quiet_trainer().test(tested, tones(), ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
    assert found == pytest.approx(metrics)
    # Others find the encoder in it, and no classifier.
    torch.testing.assert_close(load_encoder(tmp_path / "last.ckpt").state_dict(), model.encoder.state_dict())
    assert AudioEmbedder.from_checkpoint(tmp_path / "last.ckpt", device="cpu").num_classes == 0


@pytest.mark.parametrize(("pooling", "width"), [(POOLINGS[0], 32), (POOLINGS[1], 64)], ids=str)
def test_token_probe__predicts_one_vector_of_a_clip(pooling: Any, width: int, tones: Any, quiet_trainer: Any) -> None:
    model = probe_of(pooling, num_classes=4, seeds=None)
    data = tones()
    data.setup("test")
    data.predict_set = data.test_set
    batch = quiet_trainer().predict(model, data)[0]
    torch.testing.assert_close(batch["probabilities"].sum(dim=1), torch.ones(8))
    assert batch["embedding"].shape == (8, width)
    with torch.inference_mode():
        logits = model.heads[0].head(batch["embedding"])
    torch.testing.assert_close(batch["probabilities"], logits.softmax(dim=1))


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_token_probe__resumed_equals_straight(pooling: Any, tones: Any, quiet_trainer: Any, tmp_path: Path) -> None:
    straight = probe_of(pooling)
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    torch.manual_seed(7)
    quiet_trainer(max_steps=6, max_epochs=-1, callbacks=[save], enable_checkpointing=True).fit(
        straight, tones(training_augmentation=True)
    )
    resumed = probe_of(pooling)
    torch.manual_seed(7)
    quiet_trainer(max_steps=6, max_epochs=-1).fit(
        resumed, tones(training_augmentation=True), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True
    )
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_token_probe__is_no_readout_of_pooled_tokens() -> None:
    with pytest.raises(
        ValueError, match="Give token_pooling, .* or pooling and layers, got both: Prototypical.* and mean"
    ):
        probe_of(POOLINGS[1], pooling="mean")
