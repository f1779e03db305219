"""Compiled rounding to levels with given steps, and the gradients of learned steps.

The levels have the bits of `kernels/plain/steps.py`, because every operation is one IEEE operation
in a fixed order, and the compiler may not reorder or fuse any of them. The sums over a group are
added in another order.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate
from minimtp.kernels.cpu.fake_quantize import max_magnitude
from minimtp.kernels.cpu.math import bits_of, float_of, in_order
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


def fake_quantize_with_steps(w, steps, group_size, min_code, max_code, zeros=None, minima=None):
    groups = _groups(w, group_size)
    y = np.empty_like(groups)
    ends = np.float32(min_code), np.float32(max_code)
    offsets = _per_group(zeros, steps, ZERO), _per_group(minima, steps, NO_MINIMUM)
    _fake_quantize_with_steps(groups, np.ravel(steps), *offsets, *ends, y)
    return _matrix(y, w.shape)


def clipped_gradient(grad, w, first, last, group_size):
    gradients, groups = _groups(grad, group_size), _groups(w, group_size)
    dw, inside = np.empty_like(groups), np.empty(groups.shape, np.bool_)
    _clipped_gradient(gradients, groups, np.ravel(first), np.ravel(last), dw, inside)
    return _matrix(dw, w.shape), _matrix(inside, w.shape)


def log_step_gradient(grad, levels, fixed, inside, group_size, minima=None):
    arrays = [_groups(array, group_size) for array in (grad, levels, fixed, inside)]
    totals = np.empty((len(grad), arrays[0].size // group_size // len(grad)), np.float32)
    _log_step_gradient(*arrays, _per_group(minima, totals, ZERO), totals.reshape(-1))
    return totals


def _rows(groups):
    """(..., n) -> (groups, n)."""
    return np.ascontiguousarray(groups).reshape(-1, groups.shape[-1])


def _groups(x, size):
    """(N, K) -> (groups, size). Zeros fill the last group of a row."""
    missing = -x.shape[1] % size
    if missing:
        x = np.pad(x, ((0, 0), (0, missing)))
    return np.ascontiguousarray(x).reshape(-1, size)


def _matrix(groups, shape):
    """The inverse of `_groups`."""
    return np.ascontiguousarray(groups.reshape(shape[0], -1)[:, : shape[1]])


def _per_group(numbers, like, default):
    """One number per group (groups,): `numbers`, or the default for each element of `like`."""
    return np.full(like.size, default) if numbers is None else np.ravel(numbers)


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
def _fake_quantize_with_steps(x, steps, zeros, minima, min_code, max_code, y):
    for i in range(y.shape[0]):
        step, minimum = steps[i], minima[i]
        divisor = step if abs(step) >= MIN_NORMAL else INFINITY
        low, high = min_code - zeros[i], max_code - zeros[i]
        for j in range(y.shape[1]):
            distance = np.rint((x[i, j] - minimum) / divisor)
            # Both comparisons are written so that a NaN stays a NaN.
            distance = low if distance < low else distance
            distance = high if distance > high else distance
            y[i, j] = (distance + ZERO) * step + minimum


@compiled
def _clipped_gradient(grad, x, first, last, dx, inside):
    for i in range(x.shape[0]):
        low, high = min(first[i], last[i]), max(first[i], last[i])
        for j in range(x.shape[1]):
            is_inside = (x[i, j] >= low) & (x[i, j] <= high)
            inside[i, j] = is_inside
            dx[i, j] = grad[i, j] if is_inside else ZERO


@compiled(fastmath=reassociate)
def _log_step_gradient(grad, levels, fixed, inside, minima, totals):
    for i in range(grad.shape[0]):
        total, minimum = ZERO, minima[i]
        for j in range(grad.shape[1]):
            total += grad[i, j] * (levels[i, j] - (fixed[i, j] if inside[i, j] else minimum))
        totals[i] = total
