"""Steps whose gradients are not finite: one is skipped, several in a row end the run with the clips they were of."""

import warnings
from collections.abc import Mapping
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
        self._clips: list[Tensor] = []

    def see(self, batch: Any) -> None:
        """Note the clips of a batch, before its step."""
        if isinstance(batch, Mapping) and isinstance(batch.get("index"), Tensor):
            self._clips.append(batch["index"])

    def add(self, method: pl.LightningModule, is_finite: bool) -> None:
        """Note a step; it is the same on all processes whether it was finite.

        Raises:
            ValueError: After too many in a row.
        """
        if is_finite:
            self._in_a_row = 0
            self._clips = []
            return
        self.count += 1
        self._in_a_row += 1
        step = method.global_step
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
