"""The state in which a validation metric was best is kept beside the newest one."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from sslam.commands.fitting.run_folder import RunCheckpoint
from sslam.errors import UsageError

NAN = float("nan")


class Scored(BoringModel):
    """Logs a given score in the validation after each step, 1, 2, ..."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = scores

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("val/score", self.scores[self.global_step - 1])


def fit(folder: Path, scores: list[float], ckpt_path: str | None = None, **arguments: Any) -> Path:
    """Train for as many steps as there are scores; the folder of the checkpoints."""
    options: dict[str, Any] = {"monitor": "val/score", "every_n_train_steps": 1}
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=len(scores),
        val_check_interval=1,
        limit_val_batches=1,
        callbacks=[RunCheckpoint(**options | arguments)],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Scored(scores), ckpt_path=ckpt_path, weights_only=True)
    return folder / "checkpoints"


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [("max", [0.1, 0.5, 0.3, 0.5], 2), ("min", [0.4, 0.5, 0.3, 0.3], 3), ("max", [NAN, 0.2, NAN], 2)],
)
def test_best__is_the_first_of_the_best_values(
    mode: Literal["max", "min"], scores: list[float], best: int, tmp_path: Path
) -> None:
    checkpoints = fit(tmp_path, scores, mode=mode)
    assert step_of(checkpoints / "best.ckpt") == best
    assert step_of(checkpoints / "last.ckpt") == len(scores)


def test_best__milestones_are_kept_as_without(tmp_path: Path) -> None:
    with_best = fit(tmp_path / "with", [0.1, 0.5, 0.3], milestone_steps=2)
    without = fit(tmp_path / "without", [0.1, 0.5, 0.3], milestone_steps=2, monitor=None)
    kept = [{path.name for path in folder.iterdir()} for folder in (with_best, without)]
    assert kept[0] == {*kept[1], "best.ckpt"}


def test_best__a_resumed_run_remembers_it(tmp_path: Path) -> None:
    last = str(fit(tmp_path, [0.1, 0.5, 0.3]) / "last.ckpt")
    checkpoints = fit(tmp_path, [0.1, 0.5, 0.3, 0.4], last)
    assert (step_of(checkpoints / "best.ckpt"), step_of(checkpoints / "last.ckpt")) == (2, 4)
    last = str(checkpoints / "last.ckpt")
    # Each last.ckpt is written before the validation of its step.
    before = str(fit(tmp_path / "late", [0.1, 0.5]) / "last.ckpt")
    assert step_of(fit(tmp_path / "late", [0.1, 0.5, 0.3], before) / "best.ckpt") == 2
    # In a folder of its own it has no best state yet.
    assert step_of(fit(tmp_path / "new", [0.1, 0.5, 0.3, 0.4, 0.2], last) / "best.ckpt") == 5
    assert step_of(fit(tmp_path, [0.1, 0.5, 0.3, 0.4, 0.6], last) / "best.ckpt") == 5


def test_best__a_metric_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be a metric that the validation logs, got val/map\. .* val/score\."):
        fit(tmp_path, [0.1], monitor="val/map")
