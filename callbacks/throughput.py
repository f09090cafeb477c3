"""How fast a run is, how much of its time passes outside training steps, and how much of the device it uses."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from sslam.checks import at_least
from sslam.flops import flop_counter, matrix_product_flops


class Throughput(pl.Callback):
    """Logs the run's speed every ``log_every_n_steps`` optimizer steps.

    - ``train/clips_per_second``, over all ranks and accumulated batches;
    - ``train/step_seconds``, of an optimizer step from one to the next;
    - ``train/wait_fraction``, 0 to 1: the part of the wall time between the end of a training step and the start of the
      next: waiting for the data workers, the copy to the device, logging, pictures. On a GPU the host runs ahead of the
      device, so waiting that the device does not notice counts too;
    - ``train/memory_gib``, on a GPU: the most that was allocated on the first one since the last time;
    - ``train/share_of_peak``, where it is asked for: FLOPs of a step over what a large matrix product of the same
      precision reaches on the device in the same time. Products inside compiled blocks are not seen, nor counted.

    Args:
        share_of_peak: Whether to measure the matrix product before training, and count the FLOPs of a step now and
            then, which makes that step slow.
        steps_between_counts: Optimizer steps between two counts, at least 1: a stage may change what a step does.
    """

    def __init__(self, share_of_peak: bool = False, steps_between_counts: int = 10_000) -> None:
        at_least(1, steps_between_counts=steps_between_counts)
        self.share_of_peak = share_of_peak
        self.steps_between_counts = steps_between_counts
        self._last_step = 0
        self._peak = 0.0
        self._batch_flops = 0
        self._next_count = 0
        self._counter: FlopCounterMode | None = None
        self._begin_window()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = self._next_count = trainer.global_step
        if self.share_of_peak:
            dtype = torch.bfloat16 if trainer.precision == "bf16-mixed" else torch.float32
            self._peak = matrix_product_flops(pl_module.device, dtype)
        self._begin_window()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.share_of_peak and trainer.global_step >= self._next_count:
            self._next_count = trainer.global_step + self.steps_between_counts
            self._counter = flop_counter().__enter__()  # type: ignore[no-untyped-call]
        self._batch_start = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._batch_flops = self._counter.get_total_flops()
            self._counter = None
            self._last_step = trainer.global_step
            self._begin_window()  # without the step that was slow
            return
        now = time.monotonic()
        self._training_seconds += now - self._batch_start
        self._clips += len(batch["waveform"])
        self._batches += 1
        step = trainer.global_step
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if step == self._last_step or step % every != 0:
            return
        seconds, steps = now - self._window_start, step - self._last_step
        self._last_step = step
        pl_module.log("train/clips_per_second", self._clips * trainer.world_size / seconds)
        pl_module.log("train/step_seconds", seconds / steps)
        pl_module.log("train/wait_fraction", 1 - self._training_seconds / seconds)
        if pl_module.device.type == "cuda":
            pl_module.log("train/memory_gib", torch.cuda.max_memory_allocated(pl_module.device) / 2**30)
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        if self._batch_flops:
            pl_module.log("train/share_of_peak", self._batch_flops * self._batches / seconds / self._peak)
        self._begin_window()

    def _begin_window(self) -> None:
        self._window_start = self._batch_start = time.monotonic()
        self._training_seconds = 0.0
        self._clips = self._batches = 0
