"""What metrics share that are computed once, from all clips of all processes.

Shape letters: B clips of a batch, N all clips, X size of a row, C classes.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors


class ClipMetric(Metric):
    """Collects a row for every clip, its labels and its index, on the CPU and in float32.

    Several processes gather theirs, however unevenly they share the clips, and find the same numbers as one.

    Args:
        rows: Name of the rows, such as ``scores``.
        width: Size X of a row.
        num_classes: Number of classes C.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    labels: list[Tensor]
    index: list[Tensor]

    def __init__(self, rows: str, width: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _gather, **kwargs})
        self.rows = rows
        self.num_classes = num_classes
        # What a process without any clip exchanges must have the shape and type of what the others have.
        self.empty: dict[str, Tensor] = {}
        self.add_column(rows, torch.zeros(0, width))
        self.add_column("labels", torch.zeros(0, num_classes, dtype=torch.bool))
        self.add_column("index", torch.zeros(0, dtype=torch.int64))

    def add_column(self, name: str, empty: Tensor) -> None:
        """One more state of every clip; ``empty`` is that of no clip."""
        self.empty[name] = empty
        self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, rows_BX: Tensor, labels_BC: Tensor, index_B: Tensor) -> None:
        """Add a batch.

        Args:
            rows_BX: One row per clip, of any type.
            labels_BC: 1 for the classes of a clip, 0 for the others.
            index_B: What tells a clip from all others.

        Raises:
            ValueError: If shapes do not fit, a row is not finite, or a label is not 0 or 1.
        """
        rows_BX, labels_BC, index_B = rows_BX.detach().float().cpu(), labels_BC.cpu(), index_B.cpu()
        for name, tensor in ((self.rows, rows_BX), ("labels", labels_BC)):
            expected = (len(index_B), self.empty[name].shape[1])
            if tensor.shape != expected:
                raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}.")
        if not (finite_B := rows_BX.isfinite().all(dim=1)).all():
            raise ValueError(
                f"The {self.rows} of {(~finite_B).sum()} of {len(finite_B)} clips are not finite, the first is clip "
                f"{index_B[~finite_B][0]}. Evaluate in fp32 (precision 32-true); if that does not help, the weights "
                "have diverged: train with a lower learning rate."
            )
        has_class_BC = labels_BC == 1
        if not (is_label_B := (has_class_BC | (labels_BC == 0)).all(dim=1)).all():
            raise ValueError(
                f"The labels of clip {index_B[~is_label_B][0]} are not all 0 or 1. Evaluate on labels that were not "
                "mixed or smoothed."
            )
        for name, tensor in ((self.rows, rows_BX), ("labels", has_class_BC), ("index", index_B)):
            getattr(self, name).append(tensor)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        for name, empty in self.empty.items():
            if not getattr(self, name):
                getattr(self, name).append(empty.clone())
        super().sync(*args, **kwargs)

    def collected(self) -> dict[str, Tensor]:
        """All that was collected, by name, in the order of the clips' index.

        Raises:
            ValueError: If there is no clip or one was evaluated twice.
        """
        index_N, order_N = dim_zero_cat(self.index).sort()
        if not len(index_N):
            raise ValueError("No clip was evaluated. Check that the evaluation set has clips that can be read.")
        if len(twice := index_N[1:][index_N.diff() == 0]):
            raise ValueError(
                f"Clip {twice[0]} was evaluated more than once. Every clip must be evaluated exactly once, as the data "
                "modules' loaders do it; PyTorch's DistributedSampler repeats clips."
            )
        return {name: dim_zero_cat(getattr(self, name))[order_N] for name in self.empty}


def _gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """The tensor of every process, on the CPU."""
    # NCCL exchanges only what is on the GPU.
    through = "cuda" if torch.distributed.get_backend(group) == "nccl" else "cpu"
    return [part.cpu() for part in gather_all_tensors(tensor.to(through), group)]
