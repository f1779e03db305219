"""Rounding keys and values to the number format of the cache, compiled. The codes and steps of int8
are those of `kernels/plain/cache.py`.
"""

from numba import types
from numba.extending import overload

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import WITHOUT_SIGN, as_float16, bits_of, float16_bits, float_of
from minimtp.kernels.plain.cache import LARGEST_CODE, LARGEST_FLOAT16
from minimtp.kernels.plain.steps import MIN_STEP

ZERO, LARGEST, SMALLEST = np.float32(0), np.float32(LARGEST_CODE), np.float32(MIN_STEP)
LARGEST_STEP = np.float32(LARGEST_FLOAT16)
ROUNDER = np.float32(12582912.0)  # 1.5 * 2^23: the sum has no bits for a fraction


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
    step = as_float16(float_of(largest) / LARGEST)
    return LARGEST_STEP if step > LARGEST_STEP else step


@compiled
def _int8_code(x, step):
    level = ZERO if step < SMALLEST else x / step
    level = min(max(level, -LARGEST), LARGEST)
    if level != level:
        level = ZERO
    return np.int8((level + ROUNDER) - ROUNDER)
