"""Learning-rate schedule and parameter groups."""

import math
from typing import Any

from torch import nn


def warmup_cosine(step: int, peak: float, warmup_steps: int, total_steps: int, floor: float = 0.0) -> float:
    """Learning rate of update ``step`` (counted from 0): linear from ``floor`` to ``peak``, then a half cosine back.

    As published, the first update has the learning rate ``floor`` and update ``warmup_steps`` has ``peak``; from
    ``total_steps`` on the value stays at ``floor``. A peak below the floor lowers the floor to the peak.
    """
    floor = min(floor, peak)
    if step < warmup_steps:
        return floor + (peak - floor) * step / warmup_steps
    if step >= total_steps:
        return floor
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return floor + 0.5 * (peak - floor) * (1.0 + math.cos(math.pi * progress))


def parameter_groups(module: nn.Module, weight_decay: float, exempt_1d: bool) -> list[dict[str, Any]]:
    """Trainable parameters in groups by weight decay.

    Args:
        module: Where the parameters come from.
        weight_decay: Decay of the matrices.
        exempt_1d: Give biases and norm weights no decay. The published code means to, but through a mistake in a
            configuration key decays everything.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not exempt_1d:
        return [{"params": trainable, "weight_decay": weight_decay}]
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
