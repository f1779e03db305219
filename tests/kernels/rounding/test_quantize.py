"""Plain and compiled rounding of weights and activations have the same bits."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from tests.helpers.strategies import weight_matrices
from tests.helpers.tolerances import ROUNDING
from tests.kernels.both import cpu, each_kernel, needs_numba


@each_kernel
def test_activations_so_small_that_their_reciprocal_overflows_become_zero(kernel):
    x = np.full((1, 32), 7.4e-42, np.float32)
    codes, scales = kernel.quantize_activations(x)
    assert not codes.any()
    assert x[0, 0] > scales[0, 0] / 2


@needs_numba
@pytest.mark.parametrize(
    "name", ["fake_quantize_q4_0", "fake_quantize_q8_0", "fake_quantize_activations"]
)
@given(x=weight_matrices())
def test_plain_and_compiled_rounding_to_a_grid_have_the_same_bits(name, x):
    assert getattr(cpu, name)(x).tobytes() == getattr(plain, name)(x).tobytes()


@needs_numba
@pytest.mark.parametrize(
    "name", ["fake_quantize_q4_0", "fake_quantize_q8_0", "fake_quantize_activations"]
)
@given(x=weight_matrices(), place=st.integers(0, 31), sign=st.sampled_from([1.0, -1.0]))
def test_a_nan_turns_its_whole_group_into_nan_and_leaves_other_groups_unchanged(
    name, x, place, sign
):
    """No value equals a NaN, so a search for the maximum must not run past the end of the group.

    There are numbers after the end.
    """
    expected = getattr(plain, name)(x)
    expected[-1, -32:] = np.nan
    whole = np.ones(x.size + 64, np.float32)
    broken = whole[: x.size].reshape(x.shape)
    broken[...] = x
    broken[-1, place - 32] = np.copysign(np.nan, sign)
    for kernel in (cpu, plain):
        with np.errstate(invalid="ignore"):  # a NaN has no code
            np.testing.assert_array_equal(getattr(kernel, name)(broken), expected)


@needs_numba
@given(x=weight_matrices(max_magnitude=3e38))
def test_plain_and_compiled_rounding_of_activations_have_the_same_bits(x):
    for ours, theirs in zip(
        cpu.quantize_activations(x), plain.quantize_activations(x), strict=True
    ):
        assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()


@each_kernel
def test_activations_too_small_for_a_reciprocal_become_zeros(kernel):
    codes, scales = kernel.quantize_activations(np.full((1, 32), 3e-37, np.float32))
    assert not codes.any() and np.isfinite(scales).all()


@each_kernel
@given(x=weight_matrices())
def test_a_rounded_activation_is_within_half_a_step(kernel, x):
    largest = np.abs(x).reshape(len(x), -1, 32).max(axis=2)
    assume(not ((0 < largest) & (largest < 1e-36)).any())
    codes, scales = kernel.quantize_activations(x)
    steps = np.repeat(scales, 32, axis=1).astype(np.float64)
    assert np.abs(codes).max() <= 127
    assert (np.abs(codes * steps - x) <= steps * (0.5 + 128 * ROUNDING)).all()
    assert np.array_equal(
        kernel.fake_quantize_activations(x), codes * np.repeat(scales, 32, axis=1)
    )


@pytest.mark.parametrize(
    "name", ["fake_quantize_q4_0", "fake_quantize_q8_0", "fake_quantize_activations"]
)
def test_float64_values_are_rounded_by_float32_arithmetic(name):
    x = np.random.default_rng(0).standard_normal((4, 64))
    result = getattr(plain, name)(x)
    assert result.dtype == np.float64
    assert np.array_equal(result, getattr(plain, name)(x.astype(np.float32)))


@each_kernel
def test_rows_that_do_not_divide_into_groups_are_an_error(kernel):
    for function in (
        kernel.quantize_activations,
        kernel.fake_quantize_q4_0,
        kernel.fake_quantize_q8_0,
    ):
        with pytest.raises(ValueError, match="groups of 32"):
            function(np.ones((2, 33), np.float32))
