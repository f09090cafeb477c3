"""Learning-rate schedule, parameter groups and gradient clipping."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sslam.networks.audio_vit import Encoder


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


def add_epsilon_before_correction(optimizer: torch.optim.Optimizer, step: int, epsilon: float = 1e-8) -> None:
    """Set epsilon so that PyTorch's Adam takes update ``step`` (from 0) as fairseq's and TensorFlow's do.

    These add epsilon to the root of the second moment before they correct its bias, PyTorch after. The difference is
    that of a larger epsilon in the first updates: 4.5e-8 in the first one with a beta of 0.95.

    Args:
        optimizer: Adam or AdamW.
        step: Updates since the optimizer's moments were 0.
        epsilon: Epsilon before the correction.
    """
    for group in optimizer.param_groups:
        group["eps"] = epsilon / math.sqrt(1 - group["betas"][1] ** (step + 1))


PEAK = "peak_learning_rate"
"""Key of a parameter group whose schedule has a peak of its own."""


def layer_decayed_groups(
    encoder: Encoder,
    others: list[nn.Module],
    learning_rate: float,
    layer_decay: float,
    weight_decay: float,
    exempt_1d: bool,
) -> list[dict[str, Any]]:
    """Groups for fine-tuning, each with its peak learning rate: lower layers, which change least, learn most slowly.

    Block ``i`` (from 0) of ``depth`` blocks has ``learning_rate * layer_decay ** (depth - i)``; everything else, also
    patch embedding, CLS token and the norm before the blocks, has the full rate (as published).

    Args:
        encoder: Network that is fine-tuned; its layers are ``encoder.blocks``.
        others: Modules with the full rate, such as the head.
        learning_rate: Highest learning rate, the full one.
        layer_decay: Factor from a layer to the one below it, in (0, 1]; 1 for none.
        weight_decay: Decay of the matrices, see :func:`parameter_groups`.
        exempt_1d: Whether biases and norm weights have no decay, see :func:`parameter_groups`.
    """
    blocks = list(encoder.blocks)
    in_blocks = {parameter for block in blocks for parameter in block.parameters()}
    rest = [
        parameter for module in (encoder, *others) for parameter in module.parameters() if parameter not in in_blocks
    ]
    layers: list[tuple[float, nn.Module]] = [(learning_rate, nn.ParameterList(rest))]
    layers += [(learning_rate * layer_decay ** (len(blocks) - i), block) for i, block in enumerate(blocks)]
    return [
        group | {"lr": peak, PEAK: peak}
        for peak, layer in layers
        for group in parameter_groups(layer, weight_decay, exempt_1d)
        if group["params"]  # a frozen encoder has none
    ]


def parameter_groups(module: nn.Module, weight_decay: float, exempt_1d: bool) -> list[dict[str, Any]]:
    """Trainable parameters in groups by weight decay.

    Args:
        module: Network whose parameters are grouped.
        weight_decay: Decay of the matrices.
        exempt_1d: Whether biases and norm weights have no decay. The published code means to, but through a mistake in
            a configuration key decays everything.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not exempt_1d:
        return [{"params": trainable, "weight_decay": weight_decay}]
    return [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def clip_finite_gradients(
    parameters: Iterable[nn.Parameter],
    max_norm: float | None,
    algorithm: str | None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Tensor:
    """Clip gradients by their norm; where it is not finite, the step changes no weight.

    A fused optimizer is told on the device to leave the step out, for which nothing waits. Of another one, or without
    one, the gradients are forgotten, for which the device is waited for.

    What ``configure_gradient_clipping`` of a method calls: Lightning's own clipping refuses a fused optimizer under
    mixed precision, for the sake of fp16's loss scaler. With several processes the gradients are means over all of them
    already, and so all forget them or none.

    Args:
        parameters: Parameters whose gradients are clipped.
        max_norm: Largest norm; None or 0 for no clipping.
        algorithm: Lightning's ``gradient_clip_algorithm``; "norm" or None.
        optimizer: Optimizer of the parameters.

    Returns:
        The norm of all gradients before clipping, a scalar.

    Raises:
        ValueError: If the largest norm is negative or NaN, or another algorithm was asked for.
    """
    if algorithm == "value":
        raise ValueError("trainer.gradient_clip_algorithm value is not supported. Leave it out, or use norm.")
    if max_norm is not None and not max_norm >= 0:
        raise ValueError(f"trainer.gradient_clip_val must be at least 0, or null for no clipping, got {max_norm}.")
    parameters = list(parameters)
    gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm or float("inf"))
    if optimizer is not None and optimizer.defaults.get("fused"):
        # What a gradient scaler sets: fused kernels leave weights, moments and the count of steps as they are.
        optimizer.found_inf = (~gradient_norm.isfinite()).float()  # type: ignore[attr-defined]
    elif not gradient_norm.isfinite():
        for parameter in parameters:
            parameter.grad = None
    return gradient_norm
