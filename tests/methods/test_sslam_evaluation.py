"""Validation, test and prediction: of which stage, with which weights, over which clips."""

import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from sslam.methods import SSLAM, Objectives
from sslam.transforms import RandomSource
from tests.methods.sslam_method import BOOTSTRAPPING, clips, fit, make_method, make_stage
from tests.quiet_trainer import QUIET


def two_stages(**changes: object) -> SSLAM:
    stages = [make_stage(steps=2, objectives=BOOTSTRAPPING), make_stage(steps=2, objectives=Objectives(1, 1, 2))]
    return make_method(stages, **changes)


def validate(module: SSLAM, loader: DataLoader, ckpt_path: Path | None = None) -> dict[str, float]:
    trainer = pl.Trainer(**QUIET)
    (results,) = trainer.validate(module, loader, ckpt_path=ckpt_path, verbose=False)
    return dict(results)


def test_validation__of_a_checkpoint_uses_the_stage_it_was_written_in(tmp_path: Path) -> None:
    fit(two_stages(), clips(6), max_steps=1).save_checkpoint(tmp_path / "first.ckpt")
    fit(two_stages(), clips(6)).save_checkpoint(tmp_path / "last.ckpt")
    assert "val/source_retention_loss" not in validate(two_stages(), clips(4), tmp_path / "first.ckpt")
    assert validate(two_stages(), clips(4), tmp_path / "last.ckpt")["val/source_retention_loss"] > 0


def test_validation__is_the_mean_over_clips_and_the_same_every_time() -> None:
    module = make_method([make_stage(objectives=BOOTSTRAPPING)])
    loader = clips(5, batch_size=3)
    results = validate(module, loader)
    expected = torch.zeros(3, dtype=torch.float64)
    for batch_idx, batch in enumerate(loader):
        features = module.frontend(batch["waveform"], batch["num_samples"])
        losses = module.losses(features, module.stages[0], RandomSource.seeded(torch.device("cpu"), batch_idx))
        terms = torch.stack([losses.total, losses.patch, losses.cls]).detach()
        expected += len(features) * terms / 5
    got = [results["val/loss"], results["val/patch_loss"], results["val/cls_loss"]]
    assert got == pytest.approx(expected.tolist(), rel=1e-5)
    assert results == validate(module, loader)


def test_validation__a_last_clip_without_partner_is_left_out() -> None:
    module = two_stages()
    module.restored_step = 2
    assert validate(module, clips(5, batch_size=2)) == validate(module, clips(4, batch_size=2))


def test_validation__without_a_clip_that_can_be_mixed_says_so() -> None:
    module = two_stages()
    module.restored_step = 2
    with pytest.warns(UserWarning, match="No clip could be evaluated, so there is no val/loss"):
        assert validate(module, clips(1, batch_size=1)) == {}


def test_test__logs_under_its_own_name() -> None:
    (results,) = pl.Trainer(**QUIET).test(make_method(), clips(4), verbose=False)
    assert {"test/loss", "test/patch_loss", "test/cls_loss", "test/source_retention_loss"} == set(results)


def test_prediction__with_the_weights_of_the_initial_checkpoint(tmp_path: Path) -> None:
    trained = make_method()
    fit(trained, clips(6)).save_checkpoint(tmp_path / "last.ckpt")
    module = make_method(initial_checkpoint=str(tmp_path / "last.ckpt"))
    loader = clips(4)
    predictions = pl.Trainer(**QUIET).predict(module, loader)
    assert predictions is not None
    assert predictions[1]["index"].tolist() == [2, 3]
    assert predictions[1]["cls"].shape == predictions[1]["mean"].shape == (2, 32)
    batch = list(loader)[1]
    tokens = trained.eval().student(trained.frontend(batch["waveform"], batch["num_samples"]))
    torch.testing.assert_close(predictions[1]["mean"], tokens[:, 1:].mean(dim=1))


def test_prediction__a_missing_initial_checkpoint_is_an_error() -> None:
    with pytest.raises(ValueError, match="There is no file nowhere.ckpt"):
        pl.Trainer(**QUIET).predict(make_method(initial_checkpoint="nowhere.ckpt"), clips(2))


@pytest.mark.distributed
@pytest.mark.slow
def test_validation__a_process_without_a_usable_clip_does_not_hang(tmp_path: Path) -> None:
    # Three scenes on two processes in a stage with mixtures: the second process has one clip and no partner for it.
    overrides = [f"--config=experiments/overrides/{name}.yaml" for name in ("stage_2_only", "smoke", "ddp")]
    command = [sys.executable, "-m", "sslam", "fit", "--config=experiments/pretrain.yaml", *overrides]
    command += ["--data.num_val_scenes=3", "--data.num_train_scenes=4", "--trainer.max_steps=1"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=240, capture_output=True)
    (metrics,) = tmp_path.glob("runs/*/*/metrics.csv")
    assert "val/source_retention_loss" in metrics.read_text().splitlines()[0]
