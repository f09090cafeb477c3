"""Checkpoints at chosen steps of a run, kept for good."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from sslam.checks import at_least
from sslam.run_folder import required_run_folder


class StepCheckpoints(pl.Callback):
    """Keeps ``checkpoints/kept/step=00000500.ckpt`` and so on, and ``end.ckpt``, beside the run's newest state.

    The defaults are the states of a separator that the separation-contrastive paper (sec. 5.3) takes views from:
    without training (N), filtering (F), before convergence (S1) and, at the end, converged (S2).

    Args:
        steps: Optimizer steps, >= 0; 0 is the model before training.
        at_end: Whether to keep the end of the run too, as ``end.ckpt``.

    Raises:
        ValueError: If a step is negative.
    """

    def __init__(self, steps: Sequence[int] = (0, 500, 5000), at_end: bool = True) -> None:
        at_least(0, steps=min(steps, default=None))
        self.steps = frozenset(steps)
        self.at_end = at_end

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._folder = required_run_folder(trainer, self) / "checkpoints" / "kept"
        self._last_step = -1
        if trainer.global_step in self.steps:  # of a resumed run as well: it may have a folder of its own
            self._keep(trainer, f"step={trainer.global_step:08d}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Under gradient accumulation a step has several batches.
        if trainer.global_step in self.steps and trainer.global_step != self._last_step:
            self._keep(trainer, f"step={trainer.global_step:08d}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.at_end:
            self._keep(trainer, "end")

    def _keep(self, trainer: pl.Trainer, name: str) -> None:
        self._last_step = trainer.global_step
        # Called on every rank, as some strategies gather the state.
        trainer.save_checkpoint(self._folder / f"{name}.ckpt", weights_only=False)
