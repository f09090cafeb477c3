import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.image import imread

from callbacks import CollapseMonitor, LossCurves
from callbacks.loss_curves import MAX_POINTS, draw_curves


def test_loss_curves__a_run_leaves_its_curves(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    curves = LossCurves()
    fit(tiny_sslam(), clips, [CollapseMonitor(start_step=0, every_n_steps=1), curves])
    assert imread(tmp_path / "loss_curves.png").std() > 0.05
    assert curves.steps == list(range(1, 9))
    for key in ("train/patch_loss", "train/cls_loss", "train/target_std", "train/ema_decay", "train/ema_distance"):
        assert all(math.isfinite(value) for value in curves.values[key]), key
    assert curves.values["train/patch_loss"][0] > 0
    # Warm-up from 0, and a restart in stage 2.
    rates = curves.values["train/learning_rate"]
    assert rates[0] == rates[4] == 0
    assert rates[1] == rates[5] == pytest.approx(1e-3)
    # Source retention belongs to stage 2 only.
    retention = curves.values["train/source_retention_loss"]
    assert [math.isnan(value) for value in retention] == [True] * 4 + [False] * 4


def test_loss_curves__a_resumed_run_has_the_whole_curve(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    straight = LossCurves()
    fit(tiny_sslam(), clips, [straight])
    checkpoint = ModelCheckpoint(tmp_path, filename="middle", save_last=False)
    fit(tiny_sslam(), clips, [LossCurves(), checkpoint], enable_checkpointing=True, max_steps=4)
    (tmp_path / "loss_curves.png").unlink()

    resumed = LossCurves()
    fit(tiny_sslam(), clips, [resumed], ckpt_path=tmp_path / "middle.ckpt")
    assert resumed.steps == straight.steps
    assert resumed.values["train/learning_rate"] == straight.values["train/learning_rate"]
    assert resumed.values["train/patch_loss"][:4] == straight.values["train/patch_loss"][:4]
    assert (tmp_path / "loss_curves.png").exists()


def test_loss_curves__are_drawn_at_checkpoints_too(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    class Crash(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 5:
                raise InterruptedError

    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=2)
    with pytest.raises(InterruptedError):
        fit(tiny_sslam(), clips, [LossCurves(), checkpoint, Crash()], enable_checkpointing=True)
    assert (tmp_path / "loss_curves.png").exists()


def test_loss_curves__long_runs_are_thinned_out_evenly() -> None:
    curves = LossCurves()
    for step in range(1, 50_001):
        if step % curves.stride == 0:
            curves.add(step, {"train/patch_loss": float(step)})
    assert MAX_POINTS / 2 - 1 <= len(curves.steps) < MAX_POINTS
    gaps = {after - before for before, after in zip(curves.steps[:-1], curves.steps[1:], strict=True)}
    assert gaps == {curves.stride}
    assert curves.values["train/patch_loss"] == [float(step) for step in curves.steps]


def test_draw_curves__unlogged_values_have_no_panel_and_stages_are_marked() -> None:
    curves = LossCurves()
    for step in range(1, 11):
        curves.add(step, {"train/patch_loss": 1 / step, "train/ema_decay": 0.999})
    figure = draw_curves(curves.panels, curves.series(), {6: "masked latents", 20: "mixtures"})
    panels: dict[str, Any] = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_visible()}
    assert set(panels) == {"Patch loss", "1 - EMA decay"}
    boundaries = [line.get_xdata()[0] for line in panels["Patch loss"].lines if line.get_linestyle() == "--"]
    assert boundaries == [6]
    assert "stage 2: mixtures" in figure.get_suptitle()
    assert panels["1 - EMA decay"].lines[0].get_ydata() == pytest.approx([1e-3] * 10)


def test_loss_curves__panels_of_another_method() -> None:
    curves = LossCurves({"Loss": {"train/loss": "training", "val/loss": "validation"}, "MoMi": {"val/momi": ""}})
    for step in range(1, 101):
        curves.add(step, {"train/loss": 1 / step})
    curves.add_points(50, {"val/loss": 1.0})
    curves.add_points(100, {"val/loss": 2.0, "val/unknown": 3.0})
    figure = draw_curves(curves.panels, curves.series(), {})
    (panel,) = (axis for axis in figure.axes if axis.get_visible())
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["training", "validation"]
    # Two points where the validations were, not smoothed.
    assert list(panel.lines[-1].get_xdata()) == [50, 100]
    assert list(panel.lines[-1].get_ydata()) == [1.0, 2.0]
    assert panel.lines[-1].get_marker() == "o"


def test_loss_curves__a_validation_belongs_to_its_step(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    curves = LossCurves({"Loss": {"train/loss": "training", "val/loss": "validation"}})
    module = tiny_sslam()
    module.val_dataloader = lambda: clips
    fit(module, clips, [curves], val_check_interval=4, check_val_every_n_epoch=None, num_sanity_val_steps=0)
    losses = curves.points["val/loss"]
    assert list(losses) == [4, 8]
    assert losses[4] != losses[8]


def test_loss_curves__validations_between_logged_steps_are_points_too(
    tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path
) -> None:
    curves, module = LossCurves(), tiny_sslam()
    module.val_dataloader = lambda: clips
    options = {"check_val_every_n_epoch": None, "num_sanity_val_steps": 1, "log_every_n_steps": 4}
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    fit(module, clips, [curves, checkpoint], val_check_interval=3, enable_checkpointing=True, **options)
    assert curves.steps == [4, 8]
    assert list(curves.points["val/patch_loss"]) == [3, 6]
    assert list(curves.points["val/source_retention_loss"]) == [6]  # of the second stage

    resumed, module = LossCurves(), tiny_sslam()
    module.val_dataloader = lambda: clips
    fit(module, clips, [resumed], ckpt_path=tmp_path / "step=4.ckpt", val_check_interval=3, **options)
    assert resumed.points == curves.points


def test_loss_curves__nothing_known_is_no_picture(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    fit(tiny_sslam(), clips, [LossCurves({"Loss": {"val/never": ""}})])
    assert not (tmp_path / "loss_curves.png").exists()


def test_loss_curves__panels_can_be_added_to_a_run() -> None:
    old = LossCurves({"Loss": {"train/loss": ""}})
    old.add(1, {"train/loss": 3.0})
    new = LossCurves({"Loss": {"train/loss": "", "val/loss": ""}})
    new.load_state_dict(old.state_dict())
    assert new.values["train/loss"] == [3.0]
    assert new.points["val/loss"] == {}
    assert set(new.series()) == {"train/loss"}
