"""Compiled rounding to levels with given steps, and the gradients of learned steps.

The levels have the bits of `kernels/plain/steps.py`, because every operation is one IEEE operation
in a fixed order, and the compiler may not reorder or fuse any of them. The sums over a group are
added in another order.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate
from minimtp.kernels.cpu.fake_quantize import max_magnitude
from minimtp.kernels.cpu.math import as_float16, bits_of, float_of, in_order
from minimtp.kernels.plain.steps import MIN_STEP

ZERO = np.float32(0)
MIN_NORMAL, INFINITY = np.float32(MIN_STEP), np.float32(np.inf)
# x - (-0.0) and y + (-0.0) have the bits of x and y, except that x = -0.0 becomes 0.0.
NO_MINIMUM = np.float32(-0.0)
LARGEST_KEY, SMALLEST_KEY = np.int32(2**31 - 1), np.int32(-(2**31))


def signed_extremes(groups):
    found = np.empty(groups.shape[:-1], np.float32)
    _signed_extremes(_rows(groups), found.reshape(-1))
    return found


def ranges(groups):
    found = np.empty((*groups.shape[:-1], 2), np.float32)
    _ranges(_rows(groups), found.reshape(-1, 2))
    return found


def float16_values(x):
    y = np.empty(x.shape, np.float32)
    _float16_values(np.ascontiguousarray(x).reshape(-1), y.reshape(-1))
    return y


def fake_quantize_with_steps(w, steps, group_size, min_code, max_code, zeros=None, minima=None):
    groups, offsets = _groups(w, group_size), (_flat(zeros), _flat(minima))
    y = np.empty(groups.shape, np.float32)
    ends = np.float32(min_code), np.float32(max_code)
    _fake_quantize_with_steps(groups, _flat(steps), *ends, *offsets, y)
    return _matrix(y, w.shape)


def learned_step_gradients(grad, w, levels, first, last, group_size, minima=None, bound=False):
    arrays = [_groups(array, group_size) for array in (grad, w, levels)]
    ends = _flat(first), _flat(last)
    dw, totals = np.empty(arrays[0].shape, np.float32), np.empty(len(arrays[0]), np.float32)
    _learned_step_gradients(*arrays, *ends, _flat(minima), bound, dw, totals)
    return _matrix(dw, w.shape), totals.reshape(len(w), -1)


def _groups(x, size):
    """(N, K) -> (groups, size). Zeros fill the last group of a row."""
    missing = -x.shape[1] % size
    if missing:
        x = np.pad(x, ((0, 0), (0, missing)))
    return np.ascontiguousarray(x).reshape(-1, size)


def _matrix(groups, shape):
    """The inverse of `_groups`."""
    if groups.size == shape[0] * shape[1]:
        return groups.reshape(shape)
    return np.ascontiguousarray(groups.reshape(shape[0], -1)[:, : shape[1]])


def _flat(numbers):
    """(N, groups) -> (N * groups,), or None, for which Numba compiles a version of its own."""
    return None if numbers is None else np.ascontiguousarray(numbers).reshape(-1)


def _rows(groups):
    """(..., n) -> (groups, n)."""
    return np.ascontiguousarray(groups).reshape(-1, groups.shape[-1])


@compiled
def _signed_extremes(groups, found):
    for i in range(groups.shape[0]):
        magnitude = max_magnitude(groups[i])
        first = np.int32(groups.shape[1])
        for j in range(groups.shape[1]):
            at = np.int32(j) if abs(groups[i, j]) == magnitude else np.int32(groups.shape[1])
            first = min(first, at)
        # If the magnitude is NaN, no weight compares equal to it.
        found[i] = groups[i, first] if first < groups.shape[1] else magnitude


@compiled
def _ranges(groups, found):
    for i in range(groups.shape[0]):
        low, high = LARGEST_KEY, SMALLEST_KEY
        for j in range(groups.shape[1]):
            key = in_order(bits_of(groups[i, j]))
            low, high = min(low, key), max(high, key)
        found[i, 0], found[i, 1] = float_of(in_order(low)), float_of(in_order(high))


@compiled
def _float16_values(x, y):
    for i in range(x.shape[0]):
        y[i] = as_float16(x[i])


@compiled
def _fake_quantize_with_steps(x, steps, min_code, max_code, zeros, minima, y):
    for i in range(y.shape[0]):
        step = steps[i]
        divisor = step if abs(step) >= MIN_NORMAL else INFINITY
        zero = ZERO if zeros is None else zeros[i]
        minimum = NO_MINIMUM if minima is None else minima[i]
        low, high = min_code - zero, max_code - zero
        for j in range(y.shape[1]):
            distance = np.rint((x[i, j] - minimum) / divisor)
            # Both comparisons are written so that a NaN stays a NaN.
            distance = low if distance < low else distance
            distance = high if distance > high else distance
            y[i, j] = (distance + ZERO) * step + minimum


@compiled(fastmath=reassociate)
def _learned_step_gradients(grad, x, levels, first, last, minima, bound, dx, totals):
    for i in range(x.shape[0]):
        low, high = min(first[i], last[i]), max(first[i], last[i])
        total, minimum = ZERO, ZERO if minima is None else minima[i]
        for j in range(x.shape[1]):
            inside = (x[i, j] >= low) & (x[i, j] <= high)
            dx[i, j] = grad[i, j] if inside else ZERO
            fixed = levels[i, j] if bound else x[i, j]
            total += grad[i, j] * (levels[i, j] - (fixed if inside else minimum))
        totals[i] = total
