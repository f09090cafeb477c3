"""What a block of TDCN++ does between its dense layers, for one row of frames after the other, compiled for the CPU.

A row of a 10-s clip fills a core's first-level cache, and so all steps are taken while it is there: four times as fast
as library calls, each of which goes through the whole activations.

Shape letters: R rows (clips x channels), L frames. Rows (L,) are NumPy arrays, of float32 or float64.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Value = np.floating[Any]
Rows = NDArray[Value]

# Sums in any order, so that they are vectorised; NaN stays NaN. Without Python's lock, so that threads run at once. In
# one piece: parts that call each other round otherwise when they come from the cache than when they were just compiled.
_compiled = njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", nogil=True, cache=True, inline="always")


@_compiled
def forward_rows(
    output_RL: Rows, input_RL: Rows, weight_R3: Rows, bias_R1: Rows, norms: Rows, eps: Value, dilation: int
) -> None:
    """PReLU, norm, convolution, PReLU, norm of every row.

    Args:
        output_RL: Rows that are written.
        input_RL: Rows of frames.
        weight_R3: Taps of the convolution.
        bias_R1: Bias of the convolution.
        norms: Slope, gain and bias of the first, then of the second PReLU and norm, shape (6,).
        eps: Number that is added to the variance, of the rows' dtype.
        dilation: Dilation in frames, at least 1.
    """
    slope1, gain1, bias1, slope2, gain2, bias2 = norms
    normed = np.empty_like(input_RL[0])
    for row in range(len(input_RL)):
        before, centre, after = weight_R3[row]
        _normalise(normed, input_RL[row], slope1, gain1, bias1, eps)
        output = output_RL[row]
        _convolve(output, normed, before, centre, after, bias_R1[row, 0], dilation)
        _normalise(output, output, slope2, gain2, bias2, eps)


@_compiled
def backward_rows(
    input_gradient_RL: Rows,
    weight_gradient_R3: Rows,
    bias_gradient_R1: Rows,
    norms_gradient_R6: Rows,
    gradient_RL: Rows,
    input_RL: Rows,
    weight_R3: Rows,
    bias_R1: Rows,
    norms: Rows,
    eps: Value,
    dilation: int,
) -> None:
    """Gradients, which are written to the first four arrays, of :func:`forward_rows`, whose steps are taken again."""
    slope1, gain1, bias1, slope2, gain2, bias2 = norms
    zero = input_RL.dtype.type(0)
    normed, convolved = np.empty_like(input_RL[0]), np.empty_like(input_RL[0])
    gradient, scratch = np.empty_like(input_RL[0]), np.empty_like(input_RL[0])
    for row in range(len(input_RL)):
        before, centre, after = weight_R3[row]
        mean1, rstd1 = _normalise(normed, input_RL[row], slope1, gain1, bias1, eps)
        _convolve(convolved, normed, before, centre, after, bias_R1[row, 0], dilation)
        mean2, rstd2 = _normalise(scratch, convolved, slope2, gain2, bias2, eps)
        scalars = norms_gradient_R6[row]
        _normalise_backward(gradient, scalars[3:], gradient_RL[row], convolved, mean2, rstd2, slope2, gain2)
        bias_gradient_R1[row, 0] = gradient.sum()
        earlier = max(len(normed) - dilation, 0)
        weight_gradient_R3[row, 0] = _dot(gradient[dilation:], normed[:earlier])
        weight_gradient_R3[row, 1] = _dot(gradient, normed)
        weight_gradient_R3[row, 2] = _dot(gradient[:earlier], normed[dilation:])
        _convolve(scratch, gradient, after, centre, before, zero, dilation)
        _normalise_backward(input_gradient_RL[row], scalars[:3], scratch, input_RL[row], mean1, rstd1, slope1, gain1)


@_compiled
def _normalise(output: Rows, input: Rows, slope: Value, gain: Value, bias: Value, eps: Value) -> tuple[Value, Value]:
    """PReLU and norm of a row, which may be written over; gives the mean and 1 / deviation of what the norm saw."""
    count = input.dtype.type(len(input))
    total = input.dtype.type(0)
    for frame in range(len(input)):
        value = input[frame]
        active = value if value > 0 else slope * value
        output[frame] = active
        total += active
    mean = total / count
    squares = input.dtype.type(0)
    for frame in range(len(output)):
        squares += (output[frame] - mean) ** 2
    one = output.dtype.type(1)  # a Python number would make this float64
    rstd = one / np.sqrt(squares / count + eps)
    scale = gain * rstd
    for frame in range(len(output)):
        output[frame] = (output[frame] - mean) * scale + bias
    return mean, rstd


@_compiled
def _normalise_backward(
    input_gradient: Rows,
    scalar_gradients: Rows,
    gradient: Rows,
    input: Rows,
    mean: Value,
    rstd: Value,
    slope: Value,
    gain: Value,
) -> None:
    """Gradients of :func:`_normalise`: of the row, and of slope, gain and bias (3,)."""
    zero = input.dtype.type(0)
    count = input.dtype.type(len(input))
    total, overlap = zero, zero
    for frame in range(len(input)):
        value = input[frame]
        active = value if value > 0 else slope * value
        total += gradient[frame]
        overlap += gradient[frame] * (active - mean)
    overlap *= rstd
    slope_gradient = zero
    for frame in range(len(input)):
        value = input[frame]
        active = value if value > 0 else slope * value
        active_gradient = gain * rstd * (gradient[frame] - (total + (active - mean) * (rstd * overlap)) / count)
        slope_gradient += active_gradient * min(value, zero)
        input_gradient[frame] = active_gradient if value > 0 else slope * active_gradient
    scalar_gradients[0], scalar_gradients[1], scalar_gradients[2] = slope_gradient, overlap, total


@_compiled
def _convolve(
    output: Rows, input: Rows, before: Value, centre: Value, after: Value, bias: Value, dilation: int
) -> None:
    """``before * input[t - dilation] + centre * input[t] + after * input[t + dilation] + bias``; 0 outside the row."""
    for frame in range(len(input)):
        output[frame] = centre * input[frame] + bias
    # Views that start at 0: an index less the dilation might be negative for all the compiler knows.
    from_before, from_after = output[dilation:], input[dilation:]
    for frame in range(len(from_before)):
        from_before[frame] += before * input[frame]
    for frame in range(len(from_after)):
        output[frame] += after * from_after[frame]


@_compiled
def _dot(left: Rows, right: Rows) -> Value:
    total = left.dtype.type(0)
    for frame in range(len(left)):
        total += left[frame] * right[frame]
    return total
