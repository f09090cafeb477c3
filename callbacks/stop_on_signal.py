"""Ctrl-C, SIGTERM and a scheduler's SIGUSR1: the run saves its state after the step that it is in, and ends."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch import Tensor

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ONE_SIGNAL_SECONDS = 1.0  # a launcher passes on what the terminal or the scheduler has sent to all processes already


@runtime_checkable
class SavesNow(Protocol):
    """A checkpoint callback that can keep the state at any step."""

    def save_now(self, trainer: pl.Trainer) -> None:
        """Keeps the state, unless that of this step is kept already; called on every process."""


class StoppedBySignal(Exception):  # noqa: N818, nothing has gone wrong
    """A run has ended because it was told to.

    Attributes:
        signum: The signal.
        step: Optimizer steps done.
        is_saved: Whether the state after that step is kept.
        is_child: Whether Lightning has started this process beside the one that the user has started.
    """

    def __init__(self, signum: int, step: int, is_saved: bool, is_child: bool) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum = signum
        self.step = step
        self.is_saved = is_saved
        self.is_child = is_child


class StopOnSignal(pl.Callback):
    """Saves the newest checkpoint after the optimizer step in which SIGINT, SIGTERM or SIGUSR1 arrives; ends the run.

    The handler does no more than to note the signal, and all processes end after the same step, so that none is left
    waiting for another one and a run that goes on equals a straight one bit for bit. (Lightning's handlers broadcast
    and save where the signal happens to meet the process.) What the processes have noted travels during the next step,
    over gloo and without waiting; of one process nothing is sent. A second signal ends the process at once.

    It must come after the callbacks whose state is kept. The state is kept by the first checkpoint callback with a
    ``save_now``.

    Raises:
        StoppedBySignal: From the hook after a training batch.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._noted_at = 0.0
        self._group: Any = None
        self._travelling: tuple[Any, Tensor] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        handler = self._handler(trainer) if stage == "fit" else None
        trainer._signal_connector = _QuietSignals(trainer, handler)

    def _handler(self, trainer: pl.Trainer) -> Callable[[int, FrameType | None], None]:
        process = os.getpid()

        def note(signum: int, _: FrameType | None) -> None:
            if os.getpid() != process:
                return  # a process forked from this one; a loader's takes no notice of signals
            if not self.signum:
                self.signum, self._noted_at = signum, time.monotonic()
                name, rank = signal.Signals(signum).name, trainer.global_rank
                os.write(2, f"sslam: {name} (process {rank}): saves after this step; once more ends at once\n".encode())
            elif time.monotonic() - self._noted_at > ONE_SIGNAL_SECONDS:
                if (launcher := trainer.strategy.launcher) is not None and hasattr(launcher, "kill"):
                    launcher.kill(signal.SIGKILL)
                signal.signal(signum, signal.SIG_DFL)
                os.kill(process, signum)

        return note

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Of a linear probe's one pass, without steps, the processes have different numbers of batches.
        if trainer.world_size > 1 and torch.distributed.is_initialized() and pl_module.automatic_optimization:
            # On the CPU, whatever the gradients travel over: nothing waits for the device.
            self._group = torch.distributed.new_group(backend="gloo")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Between the batches of an accumulated step there are gradients that no checkpoint holds.
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if not is_step or not (signum := self._agreed()):
            return
        keeper = next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, SavesNow)), None)
        if trainer.world_size > 1 and self._group is None:
            keeper = None  # the others may be elsewhere, and such a pass begins anew
        if keeper is not None:
            keeper.save_now(trainer)
        environment = trainer._accelerator_connector.cluster_environment
        is_child = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
        raise StoppedBySignal(signum, trainer.global_step, keeper is not None, is_child)

    def _agreed(self) -> int:
        """The largest signal that any process had noted one step ago, the same on all; 0 for none."""
        if self._group is None:
            return self.signum
        signum = 0
        if self._travelling is not None:
            work, noted = self._travelling
            work.wait()
            signum = int(noted)
        noted = torch.tensor(self.signum)
        work = torch.distributed.all_reduce(noted, torch.distributed.ReduceOp.MAX, self._group, async_op=True)
        self._travelling = work, noted
        return signum

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._travelling is not None:
            self._travelling[0].wait()
        self._travelling = None


class _QuietSignals(_SignalConnector):
    """In place of Lightning's handlers: ours in a fit, in an evaluation those that were there before."""

    def __init__(self, trainer: pl.Trainer, handler: Callable[[int, FrameType | None], None] | None) -> None:
        super().__init__(trainer)
        self._handler = handler

    def register_signal_handlers(self) -> None:
        self.received_sigterm = False
        self._original_handlers = {}
        if self._handler is not None:
            self._original_handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
            for signum in SIGNALS:
                self._register_signal(signum, self._handler)
