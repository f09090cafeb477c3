"""Fine-tuning of a frozen encoder: several heads learn from the same augmented clips, and the encoder stays."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from sslam.checkpoints import read_checkpoint
from sslam.frontends import KaldiFbank
from sslam.losses import CrossEntropy
from sslam.methods import FineTune
from sslam.networks import AudioViT
from sslam.transforms import Augmentation


def frozen(**changes: Any) -> FineTune:
    torch.manual_seed(1)
    arguments: dict[str, Any] = {
        "augmentation": Augmentation(mixup_alpha=0),
        "frontend": KaldiFbank(num_frames=128),
        "encoder": AudioViT(width=32, depth=2, num_heads=2, drop_path=0.3),
        "loss": CrossEntropy(),
        "num_classes": 4,
        "learning_rate": 1e-1,
        "warmup_fraction": 0.0,
        "pooling": "both",
        "freeze_encoder": True,
        "seeds": [0, 1],
    }
    return FineTune(**(arguments | changes))


def test_frozen__heads_learn_from_augmented_clips_and_the_encoder_stays(tones: Any, quiet_trainer: Any) -> None:
    model = frozen()
    before = copy.deepcopy(model.probes.state_dict())
    encoder = copy.deepcopy(model.encoder.state_dict())
    trainer = quiet_trainer(max_epochs=20, limit_val_batches=0)
    trainer.fit(model, tones(training_augmentation=True))
    assert trainer.global_step == 20 * 5
    assert all(not torch.equal(before[name], value) for name, value in model.probes.state_dict().items())
    assert all(torch.equal(encoder[name], value) for name, value in model.encoder.state_dict().items())
    assert model.encoder.training  # stochastic depth stays on
    (metrics,) = trainer.test(model, tones(), verbose=False)
    assert metrics["test/accuracy"] > 0.5  # chance is 0.25
    assert len(model.results) == 2
    assert model.name == "LinearProbe"  # what tables call it
    assert model.head is model.probes[0].head


def test_frozen__each_head_learns_what_it_would_alone(tones: Any, quiet_trainer: Any) -> None:
    states = []
    for seeds in ([3, 5], [5]):
        model = frozen(seeds=seeds)
        torch.manual_seed(7)
        quiet_trainer(max_steps=4).fit(model, tones(training_augmentation=True))
        states.append(model.probes[-1].state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_frozen__without_seeds_there_is_one_head_of_the_runs_seed(tones: Any, quiet_trainer: Any) -> None:
    model = frozen(seeds=None)
    assert torch.equal(model.head.weight, frozen(seeds=None, freeze_encoder=False).head.weight)
    assert not hasattr(model, "probes")
    optimizer = model.configure_optimizers()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    quiet_trainer(max_steps=2, limit_val_batches=0).fit(model, tones(training_augmentation=True))


def test_frozen__resumes_where_it_stopped_also_from_a_linear_probe_of_before(
    tones: Any, quiet_trainer: Any, tmp_path: Path
) -> None:
    straight = frozen()
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    trainer = quiet_trainer(max_steps=6, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(straight, tones(training_augmentation=True))
    checkpoint = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert read_checkpoint(tmp_path / "step=3.ckpt").num_classes == 4
    # Before, a linear probe trained these heads and stepped its optimizer itself.
    loops = checkpoint["loops"]["fit_loop"]
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    loops["epoch_loop.manual_optimization.optim_step_progress"] = copy.deepcopy(steps)
    for counts in steps.values():
        counts |= {"ready": 0, "completed": 0}
    del checkpoint["optimizer_states"][0]["param_groups"][0]["peak_learning_rate"]
    torch.save(checkpoint, tmp_path / "before.ckpt")
    for name in ("step=3", "before"):
        resumed = frozen()
        trainer = quiet_trainer(max_steps=6)
        trainer.fit(resumed, tones(training_augmentation=True), ckpt_path=tmp_path / f"{name}.ckpt", weights_only=True)
        assert trainer.global_step == 6
        for key, value in straight.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), (name, key)


def test_fine_tune__several_heads_need_a_frozen_encoder() -> None:
    with pytest.raises(ValueError, match=r"seeds need a frozen encoder, got \[0, 1\]\. Set freeze_encoder, or give no"):
        frozen(freeze_encoder=False)
    with pytest.raises(ValueError, match=r"seeds must be one or more different numbers, got \[1, 1\]\."):
        frozen(seeds=[1, 1])
