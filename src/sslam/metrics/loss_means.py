"""Means of losses over all clips of an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class LossMeans(Metric):
    """Means over all clips of all processes, from the means over the clips of each batch.

    Unlike :class:`torchmetrics.MeanMetric` it leaves no loss out that is not finite.

    Args:
        names: Names of the losses.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    totals: Tensor
    numbers: Tensor

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = names
        self.add_state("totals", torch.zeros(len(names)), dist_reduce_fx="sum")
        self.add_state("numbers", torch.zeros(len(names)), dist_reduce_fx="sum")

    def update(self, losses: Mapping[str, Tensor], num_clips: int) -> None:
        """Add a batch: any of the losses by name, scalars, and how many clips each is the mean of."""
        for index, name in enumerate(self.names):
            if name in losses:
                self.totals[index] += num_clips * losses[name]
                self.numbers[index] += num_clips

    def compute(self) -> dict[str, Tensor]:
        """Means by name, float32 scalars; a loss that no process has seen is left out."""
        sums = zip(self.names, self.totals, self.numbers, strict=True)
        return {name: total / number for name, total, number in sums if number > 0}
