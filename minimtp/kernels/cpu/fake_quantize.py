"""Compiled rounding of weights and activations to their grids. The results are bit-identical to
`kernels/plain/quantize.py`.

Equal bits are possible because every step is either exact or one IEEE operation in a fixed order.
The compiler may not reorder or fuse any of them.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import WITHOUT_SIGN, as_float16, bits_of, float_of
from minimtp.kernels.ggml.blocks import GROUP_SIZE, MAX_STEP_WITHOUT_RECIPROCAL
from minimtp.kernels.plain.quantize import MAX_WITHOUT_INVERSE, require_whole_groups

GROUP = GROUP_SIZE
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
MAX_CODE = np.float32(127)
MIN_STEP = np.float32(MAX_STEP_WITHOUT_RECIPROCAL)
MIN_ACTIVATION = np.float32(MAX_WITHOUT_INVERSE)


@compiled
def max_magnitude(group):
    """Return max |x| over a group. A NaN counts as larger than infinity."""
    bits = np.int32(0)
    for j in range(group.shape[0]):
        bits = max(bits, np.int32(bits_of(group[j]) & WITHOUT_SIGN))
    return float_of(bits)


def fake_quantize_q4_0(w):
    return _fake_quantize(_fake_quantize_q4_0, w)


def fake_quantize_q8_0(w):
    return _fake_quantize(_fake_quantize_q8_0, w)


def fake_quantize_activations(x):
    return _fake_quantize(_fake_quantize_activations, x)


def _fake_quantize(function, x):
    require_whole_groups(x)
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    function(x.reshape(-1, GROUP), y.reshape(-1, GROUP))
    return y


@compiled
def _fake_quantize_q4_0(x, y):
    for i in range(y.shape[0]):
        magnitude = max_magnitude(x[i])
        first = np.int32(GROUP)
        for j in range(x.shape[1]):
            first = min(first, np.int32(j) if abs(x[i, j]) == magnitude else np.int32(GROUP))
        # If the magnitude is NaN, no weight compares equal to it.
        extreme = x[i, first] if first < GROUP else magnitude
        step = extreme / np.float32(-8)
        inverse = ONE / step if abs(step) > MIN_STEP else ZERO
        stored = as_float16(step)
        for j in range(y.shape[1]):
            # The argument is never negative, so the conversion rounds down.
            level = np.int32(x[i, j] * inverse + np.float32(8.5))
            y[i, j] = np.float32(min(level, np.int32(15)) - np.int32(8)) * stored


@compiled
def _fake_quantize_q8_0(x, y):
    for i in range(y.shape[0]):
        step = max_magnitude(x[i]) / MAX_CODE
        inverse = ONE / step if step > MIN_STEP else ZERO
        stored = as_float16(step)
        for j in range(y.shape[1]):
            exact = x[i, j] * inverse
            whole = np.int32(exact)
            # 1 or -1 if the fraction is at least a half, so ties round away from zero.
            beyond = np.int32((exact - np.float32(whole)) * TWO)
            y[i, j] = np.float32(whole + beyond) * stored


@compiled
def _fake_quantize_activations(x, y):
    for i in range(y.shape[0]):
        magnitude = max_magnitude(x[i])
        inverse = MAX_CODE / magnitude if magnitude > MIN_ACTIVATION else ZERO
        scale = magnitude / MAX_CODE
        for j in range(y.shape[1]):
            # The conversion to an integer turns -0.0 into 0.0.
            y[i, j] = np.float32(np.int32(np.rint(x[i, j] * inverse))) * scale
