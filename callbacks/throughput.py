"""How fast a run is, and how much of its time passes outside training steps."""

import time
from typing import Any

import lightning.pytorch as pl


class Throughput(pl.Callback):
    """Logs ``train/clips_per_second`` and ``train/wait_fraction`` every ``log_every_n_steps`` optimizer steps.

    Clips are counted over all ranks and accumulated batches. The wait fraction is the part of the wall time, 0 to 1,
    between the end of a training step and the start of the next: waiting for the data workers, the copy to the
    device, logging, pictures. On a GPU the host runs ahead of the device, so waiting that the device does not notice
    counts too.
    """

    def __init__(self) -> None:
        self._last_step = 0
        self._begin_window()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        self._begin_window()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch_start = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        self._training_seconds += now - self._batch_start
        self._clips += len(batch["waveform"])
        step = trainer.global_step
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if step == self._last_step or step % every != 0:
            return
        self._last_step = step
        seconds = now - self._window_start
        pl_module.log("train/clips_per_second", self._clips * trainer.world_size / seconds)
        pl_module.log("train/wait_fraction", 1 - self._training_seconds / seconds)
        self._begin_window()

    def _begin_window(self) -> None:
        self._window_start = self._batch_start = time.monotonic()
        self._training_seconds = 0.0
        self._clips = 0
