"""What the method says of position and content, and that saying it changes nothing."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from sslam.checkpoints.loading import load_pretraining_state
from sslam.losses import scaled_squared_error
from sslam.methods import SSLAM, Objectives
from sslam.metrics import PatchLosses, PositionMeans
from sslam.transforms import RandomSource
from tests.methods.sslam_method import BOOTSTRAPPING, clips, fit, make_method, make_stage
from tests.quiet_trainer import QUIET

RATIO, SHARE = "train/patch_loss_above_position", "train/position_share"


class Positions(pl.Callback):
    """Keeps the losses and what is logged of the position at each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ratios: list[float] = []
        self.patch_losses: list[PatchLosses | None] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())
        self.patch_losses.append(outputs["patch_losses"])
        if outputs["patch_losses"] is not None:
            self.ratios.append(trainer.callback_metrics[RATIO].item())
            assert trainer.callback_metrics[SHARE].item() <= 1


def two_stages() -> SSLAM:
    return make_method([make_stage(objectives=BOOTSTRAPPING), make_stage()])


def test_training__is_the_same_to_the_bit_without_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[SSLAM, Positions]:
        module, positions = two_stages(), Positions()
        pl.seed_everything(3, verbose=False)
        fit(module, clips(8), callbacks=[positions])
        return module, positions

    module, positions = run()
    monkeypatch.setattr(PositionMeans, "compare", lambda *_: None)
    plain, without = run()
    assert len(positions.losses) == 8
    assert positions.losses == without.losses
    assert without.ratios == []
    # The first step of either stage has targets of which no mean is known.
    assert [losses is None for losses in positions.patch_losses] == [True] + [False] * 3 + [True] + [False] * 3
    state = plain.state_dict()
    assert list(state) == list(module.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_patch_losses__of_a_student_are_measured_like_those_of_the_position() -> None:
    """The weights that the method hands out give its own patch loss again."""
    module = make_method()
    predictions: list[Tensor] = []
    predict = module.predict_latents

    def recorded(*args: Any) -> tuple[Tensor, Tensor]:
        cls_BKD, prediction_BKPD = predict(*args)
        predictions.append(prediction_BKPD)
        return cls_BKD, prediction_BKPD

    module.predict_latents = recorded  # type: ignore[method-assign]
    module.masking = lambda number, grid, generator: masks  # type: ignore[assignment]
    # One clone, so that the weights of a patch are 0 or its loss's.
    masks = type(make_method().masking)()(2, (8, 8), torch.Generator().manual_seed(0))
    stage = make_stage(num_clones=1, objectives=Objectives(1, 3, 2))
    losses = module.losses(torch.randn(2, 128, 128), stage, RandomSource.seeded(torch.device("cpu"), 0))
    total = torch.zeros(())
    for prediction_BKPD, kind in zip(predictions, ("clip", "mixture"), strict=True):
        target_BPD, weight_BP = losses.targets[kind]
        assert weight_BP is not None
        total = total + (weight_BP * scaled_squared_error(prediction_BKPD[:, 0], target_BPD)).sum()
    assert total.item() == pytest.approx(losses.patch.item(), rel=1e-5)
    assert losses.targets["sources"][1] is None


def test_objectives__without_a_patch_loss_there_is_nothing_to_compare() -> None:
    positions = Positions()
    fit(make_method([make_stage(objectives=Objectives(0, 0, 1))]), clips(4), callbacks=[positions])
    assert positions.patch_losses == [None] * 4


def test_checkpoint__a_resumed_run_logs_the_same_to_the_bit(tmp_path: Path) -> None:
    def run(*callbacks: pl.Callback, ckpt_path: Path | None = None) -> Positions:
        positions = Positions()
        trainer = pl.Trainer(**QUIET | {"enable_checkpointing": ckpt_path is None}, callbacks=[*callbacks, positions])
        pl.seed_everything(3, verbose=False)
        trainer.fit(two_stages(), same_clips, ckpt_path=ckpt_path, weights_only=True)
        return positions

    # Equal batches, for a plain loader begins anew.
    same_clips = DataLoader(list(clips(2).dataset) * 8, batch_size=2)
    straight = run(ModelCheckpoint(tmp_path, filename="six", every_n_train_steps=6, save_top_k=-1))
    resumed = run(ckpt_path=tmp_path / "six.ckpt")
    assert len(resumed.ratios) == 2
    assert resumed.ratios == straight.ratios[-2:]
    assert resumed.losses == straight.losses[-2:]


def test_checkpoint__one_without_means_is_gone_on_with(tmp_path: Path) -> None:
    fit(two_stages(), clips(12), max_steps=5).save_checkpoint(tmp_path / "five.ckpt")
    checkpoint = torch.load(tmp_path / "five.ckpt", weights_only=True)
    assert checkpoint.pop("position_means").keys() == {"clip", "mixture", "sources"}
    torch.save(checkpoint, tmp_path / "old.ckpt")
    positions = Positions()
    pl.Trainer(**QUIET, callbacks=[positions]).fit(two_stages(), clips(12), ckpt_path=tmp_path / "old.ckpt")
    assert [losses is None for losses in positions.patch_losses] == [True, False, False]


def test_checkpoint__the_means_are_no_weights(tmp_path: Path) -> None:
    module = make_method()
    fit(module, clips(4)).save_checkpoint(tmp_path / "run.ckpt")
    state = load_pretraining_state(tmp_path / "run.ckpt", [])
    assert state.keys() == module.state_dict().keys()
    assert {name.split(".")[0] for name in state} == {"student", "decoder", "teacher"}
    fresh = make_method()
    fresh.load_initial_weights(tmp_path / "run.ckpt")
    assert fresh.position_means.means == {}
