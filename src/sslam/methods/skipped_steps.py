"""Steps whose gradients are not finite: one is skipped, several in a row end the run with the clips they were of."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from torch import Tensor

MOST_NAMED = 24  # clips in the message


class SkippedSteps:
    """Counts steps that were skipped, and knows the clips of those of the last in a row.

    Args:
        most_in_a_row: So many end the run.
    """

    def __init__(self, most_in_a_row: int) -> None:
        self.most_in_a_row = most_in_a_row
        self.count = 0
        self._in_a_row = 0
        self._clips: list[Tensor] = []  # of the steps in a row
        self._seen: list[Tensor] = []  # of the step that is being made
        self._undecided: tuple[Callable[[], bool], list[Tensor], int] | None = None

    def see(self, batch: Any) -> None:
        """Note the clips of a batch, before its step."""
        if isinstance(batch, Mapping) and isinstance(batch.get("index"), Tensor):
            self._seen.append(batch["index"])

    def add(self, method: pl.LightningModule, is_finite: Tensor) -> None:
        """Note a step; it is the same on all processes whether it was finite.

        On a GPU it is looked at one step later, when the device has long gone past it: nothing waits.

        Args:
            method: The method, which says what step it is.
            is_finite: Scalar on the method's device.

        Raises:
            ValueError: After too many in a row.
        """
        clips, self._seen = self._seen, []
        if is_finite.device.type == "cpu":
            self._decide(method, bool(is_finite), clips, method.global_step)
            return
        if self._undecided is not None:
            read, clips_before, step_before = self._undecided
            self._decide(method, read(), clips_before, step_before)
        self._undecided = read_later(is_finite), clips, method.global_step

    def _decide(self, method: pl.LightningModule, is_finite: bool, clips: list[Tensor], step: int) -> None:
        if is_finite:
            self._in_a_row = 0
            self._clips = []
            return
        self.count += 1
        self._in_a_row += 1
        self._clips += clips
        if self._in_a_row == self.most_in_a_row:
            raise ValueError(
                f"The gradients of {self._in_a_row} steps in a row, the last of them step {step}, are not finite, so "
                f"the run stops. Look at the clips of these batches ({self._names(method)}), or go on from the last "
                "checkpoint with a lower learning rate or a longer warm-up."
            )
        if self.count in (1, 10, 100, 1000):
            warnings.warn(
                f"The gradients of step {step} are not finite, so it changes no weight ({self.count} such steps so "
                f"far; {self.most_in_a_row} in a row end the run).",
                stacklevel=2,
            )

    def _names(self, method: pl.LightningModule) -> str:
        """Files of the clips on all processes, or their numbers where a clip is no file."""
        dataset = getattr(getattr(method.trainer, "datamodule", None), "train_set", None)
        path = getattr(dataset, "path", lambda index: f"clip {index}")
        own = [path(int(index)) for clips in self._clips for index in clips]
        gathered = [own] * method.trainer.world_size
        if method.trainer.world_size > 1:
            torch.distributed.all_gather_object(gathered, own)
        names = sorted({name for names in gathered for name in names})
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return ", ".join(names[:MOST_NAMED]) + more


def read_later(flag: Tensor) -> Callable[[], bool]:
    """Send a truth value from a GPU to the host; the function that is returned waits for its arrival alone."""
    on_host = torch.empty((), dtype=torch.bool, pin_memory=True)
    on_host.copy_(flag, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> bool:
        arrived.synchronize()
        return bool(on_host)

    return read
