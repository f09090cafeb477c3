"""FLOPs of what is computed, and how many a device can do in a second."""

import math
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def matrix_product_flops(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """FLOP/s of a large square matrix product, the best of five: what a device can do at most.

    Args:
        device: Where it is computed, with the threads that PyTorch has.
        dtype: Of the matrices.
        size: Rows and columns; None takes 8192 on a GPU and 1024 on a CPU.
    """
    on_cpu = device.type == "cpu"
    size = size or (1024 if on_cpu else 8192)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        left @ right
        if not on_cpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention, 2 FLOPs per multiply-add."""
    aten = torch.ops.aten
    # PyTorch's counter leaves out attention on a CPU and takes a grouped convolution's weight gradient for a dense one.
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
        aten.convolution_backward: _convolution_backward_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _attention_flops(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(
    grad: list[int], query: list[int], key: list[int], value: list[int], *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _convolution_backward_flops(
    grad: list[int],
    input: list[int],
    weight: list[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    *settings: Any,
    **_: Any,
) -> int:
    wants_input, wants_weight, _wants_bias = settings[-1]
    # Either gradient costs as much as the forward pass; the weight has the inputs of one group only.
    forward = 2 * grad[0] * math.prod((input if transposed else grad)[2:]) * math.prod(weight)
    return int(forward * (wants_input + wants_weight))
