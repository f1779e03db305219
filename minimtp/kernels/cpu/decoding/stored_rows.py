"""Rounding keys and values to the number format of the cache, compiled, and the arrays of a cache
as compiled code takes them. The codes and steps of int8 are those of `kernels/plain/cache.py`.
"""

from numba import types
from numba.extending import overload

from minimtp.backend import MAX_FLOAT16
from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import WITHOUT_SIGN, as_float16, bits_of, float16_bits, float_of
from minimtp.kernels.plain.cache import MAX_CODE, require_steps
from minimtp.kernels.plain.decoding.block import TreeArrays
from minimtp.kernels.plain.steps import MIN_STEP

ZERO, MAX_LEVEL, LEAST_STEP = np.float32(0), np.float32(MAX_CODE), np.float32(MIN_STEP)
MAX_STEP = np.float32(MAX_FLOAT16)
ROUNDER = np.float32(12582912.0)  # 1.5 * 2^23: the sum has no bits for a fraction


def absent_arrays(*blocks):
    """Return the empty arrays of a chain of rows in a cache that is not int8: the steps, and those
    of a tree. `blocks` is the number of blocks, if the call computes several.
    """
    steps, rows = (np.empty((*blocks, count, 0, 0), np.float32) for count in (2, 0))
    return steps, TreeArrays(np.empty((0, 3), np.int64), rows, rows, rows)


def compiled_cache(keys, values, steps, tree, absent):
    """Return keys, values, steps and the arrays of a tree as compiled code takes them: float16
    numbers as their bits, and arrays of `absent`, the result of `absent_arrays`, for None.

    Raises ValueError if the steps do not fit.
    """
    no_steps, no_tree = absent
    stretches, kept_keys, kept_values, kept_steps = tree or no_tree
    if keys.dtype == np.int8 or steps is not None:
        require_steps(keys, steps)
        wanted = *kept_keys.shape[:-2], 2, keys.shape[-4]
        if tree and (kept_steps is None or kept_steps.shape != wanted):
            raise ValueError("a tree in an int8 cache needs steps")
    if steps is None:
        steps, kept_steps = no_steps, no_tree.steps
    if keys.dtype == np.float32:
        return keys, values, steps, stretches, kept_keys, kept_values, kept_steps
    bits = np.uint16 if keys.dtype == np.float16 else np.int8
    keys, values, kept_keys, kept_values = (
        array.view(bits) for array in (keys, values, kept_keys, kept_values)
    )
    return keys, values, steps, stretches, kept_keys, kept_values, kept_steps


ABSENT = absent_arrays()


@compiled
def store_row(row, stored, steps, group, position):
    """Write the numbers of row (C,) to stored (C,), in the format of the cache, and the step of
    int8 to steps[group, position]. For other formats, steps are empty.
    """
    step = _step_of(stored, row)
    if steps.size > 0:
        steps[group, position] = step
    for c in range(row.shape[0]):
        stored[c] = _as_stored(stored, row[c], step)


def _step_of(stored, row):
    raise NotImplementedError("only in compiled code")


def _as_stored(stored, x, step):
    raise NotImplementedError("only in compiled code")


@overload(_step_of, inline="always")
def _compiled_step_of(stored, row):
    if stored.dtype is types.int8:
        return lambda stored, row: _int8_step(row)
    return lambda stored, row: ZERO


@overload(_as_stored, inline="always")
def _compiled_as_stored(stored, x, step):
    if stored.dtype is types.int8:
        return lambda stored, x, step: _int8_code(x, step)
    if stored.dtype is types.uint16:
        return lambda stored, x, step: float16_bits(x)
    return lambda stored, x, step: x


@compiled
def _int8_step(row):
    largest = np.int32(0)  # as bits, of which those of a NaN are the largest
    for c in range(row.shape[0]):
        largest = max(largest, np.int32(bits_of(row[c]) & WITHOUT_SIGN))
    step = as_float16(float_of(largest) / MAX_LEVEL)
    return MAX_STEP if step > MAX_STEP else step


@compiled
def _int8_code(x, step):
    level = ZERO if step < LEAST_STEP else x / step
    level = min(max(level, -MAX_LEVEL), MAX_LEVEL)
    if level != level:
        level = ZERO
    return np.int8((level + ROUNDER) - ROUNDER)
