"""Progress over the optimizer steps of the whole run, on a terminal and in a log file."""

import sys
import time
from bisect import bisect_right
from itertools import accumulate
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf
from lightning.pytorch.core.optimizer import _MockOptimizer

from sslam.checks import at_least


class TrainingProgress(TQDMProgressBar):
    """One bar for the whole run: ``stage 1/2 (masked latents): 1234/600000 [02:10<17:31:02, 9.49it/s, loss=1.02]``.

    Without a terminal (a pipe, a batch system's log file) it writes a plain line every ``seconds_between_lines``
    seconds instead of redrawing a bar; the other bars of Lightning are then off. A method without ``stages`` shows
    ``training``.

    Args:
        refresh_rate: Batches between two updates of the bar, as in Lightning; 0 turns it off.
        seconds_between_lines: Seconds between two lines where there is no terminal, >= 0; the first step and the last
            one always give a line.

    Raises:
        ValueError: If the seconds are negative.
    """

    BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    LINE_FORMAT = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"

    def __init__(self, refresh_rate: int = 1, seconds_between_lines: float = 30.0) -> None:
        super().__init__(refresh_rate=refresh_rate)
        at_least(0, seconds_between_lines=seconds_between_lines)
        self.seconds_between_lines = seconds_between_lines
        self._writes_lines = False
        self._first_step = 0
        self._last_line_step = -1
        self._start = self._last_line = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)  # leaves it enabled on one rank only
        self._writes_lines = self.is_enabled and not sys.stdout.isatty()
        if self._writes_lines:
            self.disable()

    def on_train_start(self, *args: Any) -> None:
        self._first_step = self._position(self.trainer)
        self._start = time.monotonic()
        self._last_line = float("-inf")
        if not self._counts_steps(self.trainer):
            self._total = self.trainer.num_training_batches
        elif self.trainer.max_steps > 0:
            self._total = self.trainer.max_steps
        else:
            self._total = self.trainer.estimated_stepping_batches
        self.train_progress_bar = Tqdm(
            desc=self._description(self.trainer.lightning_module),
            initial=self._first_step,
            total=convert_inf(self._total),
            disable=self.is_disabled,
            dynamic_ncols=True,
            mininterval=1,  # seconds; each redrawing reads the loss, which waits for the device
            file=sys.stdout,
            bar_format=self.BAR_FORMAT,
        )

    def on_train_epoch_start(self, *args: Any) -> None:
        pass  # the bar belongs to the run

    def on_train_epoch_end(self, *args: Any) -> None:
        pass

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self._position(trainer)
        bar = self.train_progress_bar
        if self.is_enabled and step % self.refresh_rate == 0 and bar.update(step - bar.n):
            # Only when tqdm has drawn: reading the loss waits for the device.
            bar.set_description_str(self._description(pl_module), refresh=False)
            bar.set_postfix_str(self._loss(trainer), refresh=False)
        if self._writes_lines and time.monotonic() - self._last_line >= self.seconds_between_lines:
            self._write_line(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writes_lines and self._position(trainer) != self._last_line_step:
            self._write_line(trainer, pl_module)
        bar = self.train_progress_bar
        if not bar.disable:
            bar.set_postfix_str(self._loss(trainer), refresh=False)
            bar.update(self._position(trainer) - bar.n)
            bar.refresh()
        bar.close()

    def _write_line(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_line = time.monotonic()
        self._last_line_step = self._position(trainer)
        line = Tqdm.format_meter(
            n=self._last_line_step,
            total=convert_inf(self._total),
            elapsed=self._last_line - self._start,
            prefix=self._description(pl_module),
            postfix=self._loss(trainer),
            initial=self._first_step,
            bar_format=self.LINE_FORMAT,
        )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    @staticmethod
    def _counts_steps(trainer: pl.Trainer) -> bool:
        """Whether there is an optimizer; Lightning puts a mock where there is none."""
        return not any(isinstance(optimizer, _MockOptimizer) for optimizer in trainer.optimizers)

    def _position(self, trainer: pl.Trainer) -> int:
        """Optimizer steps; batches where there is no optimizer, as for a linear probe that keeps frozen features."""
        return trainer.global_step if self._counts_steps(trainer) else trainer.fit_loop.total_batch_idx + 1

    def _description(self, pl_module: Any) -> str:
        stages = getattr(pl_module, "stages", [])
        if not stages:
            return "training"
        ends = list(accumulate(stage.steps for stage in stages))
        index = min(bisect_right(ends, self.trainer.global_step), len(stages) - 1)
        return f"stage {index + 1}/{len(stages)} ({stages[index].name})"

    @staticmethod
    def _loss(trainer: pl.Trainer) -> str:
        loss = trainer.callback_metrics.get("train/loss")
        return "" if loss is None else f"loss={float(loss):.4g}"
