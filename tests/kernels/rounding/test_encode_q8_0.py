"""Q8_0 has the codes and scales of ggml, compared with its definition in exact arithmetic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels.ggml.blocks import encode_q8_0


def group(*weights):
    """Return a group whose largest magnitude is 127, so its scale is 1: float32 (1, 32)."""
    x = np.zeros((1, 32), np.float32)
    x[0, : len(weights)], x[0, 31] = weights, -127
    return x


def expected_codes(x):
    """Return the codes of one group (32,). 1/d and its products are float32 numbers."""
    step = np.abs(x).max() / np.float32(127)
    if step == 0:
        return [0] * 32
    scaled = x * (np.float32(1) / step)
    return [int(math.copysign(math.floor(abs(float(s)) + 0.5), s)) for s in scaled]


def check(found, x):
    """Check the types, shapes and values of codes and scales."""
    codes, scales = found
    assert codes.shape == x.shape, f"expected codes of the shape {x.shape}, got {codes.shape}"
    assert codes.dtype == np.int8, f"expected codes of the type int8, got {codes.dtype}"
    shape = len(x), x.shape[1] // 32
    assert scales.shape == shape, f"expected scales of the shape {shape}, got {scales.shape}"
    assert scales.dtype == np.float32, f"expected scales of the type float32, got {scales.dtype}"
    x = x.astype(np.float32).reshape(-1, 32)
    steps = [np.abs(weights).max() / np.float32(127) for weights in x]
    stored = [float(np.float16(step)) for step in steps]
    assert scales.reshape(-1).tolist() == stored, (
        f"expected the scales max|x| / 127, rounded to float16: {stored}, got {scales.tolist()}"
    )
    for weights, numbers in zip(x, codes.reshape(-1, 32).tolist(), strict=True):
        expected = expected_codes(weights)
        wrong = [i for i in range(32) if numbers[i] != expected[i]]
        assert not wrong, (
            f"weight {weights[wrong[0]]!s} of a group with max|x| = {np.abs(weights).max()!s}: "
            f"expected the code {expected[wrong[0]]}, got {numbers[wrong[0]]}"
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_encode_q8_0_of_whole_numbers(own, dtype):
    x = group(1, -2, 3, 100, -126, 127).astype(dtype)
    check(own(encode_q8_0)(x), x)


def test_encode_q8_0_rounds_halves_away_from_zero(own):
    x = group(0.5, 1.5, 2.5, 126.5, -0.5, -1.5, -2.5, -126.5)
    check(own(encode_q8_0)(x), x)


def test_encode_q8_0_rounds_numbers_just_below_a_half_toward_zero(own):
    below = np.nextafter(np.array([0.5, 1.5, 2.5], np.float32), np.float32(0))
    x = group(*below, *-below)
    check(own(encode_q8_0)(x), x)


def test_encode_q8_0_of_zeros(own):
    x = np.zeros((2, 64), np.float32)
    x[1, :32] = group(7, -9)
    check(own(encode_q8_0)(x), x)


@given(rows=st.integers(1, 3), groups=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_encode_q8_0_has_one_scale_per_group(own, rows, groups, seed):
    rng = np.random.default_rng(seed)
    spread = rng.choice([0.01, 1, 30], (rows, groups, 1))
    x = (rng.standard_normal((rows, groups, 32)) * spread).reshape(rows, -1).astype(np.float32)
    before = x.copy()
    check(own(encode_q8_0)(x), x)
    assert np.array_equal(x, before), "the array that is passed in must not change"


@given(seed=st.integers(0, 2**32))
def test_encode_q8_0_multiplies_by_the_reciprocal_of_the_scale_before_it_is_stored(own, seed):
    """Weights halfway between two levels show how their codes were computed."""
    rng = np.random.default_rng(seed)
    largest = np.float32(rng.uniform(0.1, 10))
    step = largest / np.float32(127)
    x = ((rng.integers(-120, 120, 32) + 0.5) * step).astype(np.float32)[None]
    x[0, 0] = largest
    check(own(encode_q8_0)(x), x)
