"""Embeddings of all processes, with gradients."""

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather


def num_processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_gather_with_gradient(local: Tensor) -> Tensor:
    """The rows of all processes below each other, those of rank 0 first; without other processes the tensor itself.

    The gradient of a row is the sum of what the losses of all processes make of it. So where the loss of the whole
    batch is the mean of the processes' losses, the gradients that DistributedDataParallel averages are its gradients.

    Args:
        local: Shape (B, ...), the same one in all processes: a training loader must drop the last, smaller batch.

    Returns:
        Shape (processes x B, ...), float32 at least, as gradients of many processes are summed in it.
    """
    if num_processes() == 1:
        return local
    return torch.cat(all_gather(local.to(torch.promote_types(local.dtype, torch.float32))))
