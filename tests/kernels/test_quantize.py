"""Plain and compiled rounding of weights and activations have the same bits."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from tests.kernels.both import cpu, each_kernel, needs_numba
from tests.strategies import weight_matrices
from tests.tolerances import ROUNDING


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


@st.composite
def rounded_with_steps(draw):
    """Return gradients and weights (N, K), and the further arguments of the rounding with steps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    size = draw(st.integers(1, 70))
    steps = rng.standard_normal((rows, -(-columns // size))).astype(np.float16).astype(np.float32)
    steps[rng.random(steps.shape) < 0.2] = draw(st.sampled_from([0.0, 1e-40, 65504.0]))
    low, high = draw(st.sampled_from([(-8, 7), (-127, 127), (-1, 1)]))
    w = 10.0 ** draw(st.floats(-3, 3)) * rng.standard_normal((rows, columns))
    spread = np.repeat(steps, size, axis=1)[:, :columns]
    on_ties = rng.random(w.shape) < 0.3  # halves of steps, and the outermost levels
    w = np.where(on_ties, spread * rng.integers(2 * low - 2, 2 * high + 3, w.shape) / 2, w)
    grad = rng.standard_normal((rows, columns)).astype(np.float32)
    return grad, w.astype(np.float32), steps, size, low, high


@needs_numba
@given(arguments=rounded_with_steps())
def test_plain_and_compiled_rounding_with_given_steps_agree(arguments):
    _, *rounding = arguments
    name = "fake_quantize_with_steps"
    assert getattr(cpu, name)(*rounding).tobytes() == getattr(plain, name)(*rounding).tobytes()
    (dw, dt), (expected_dw, expected_dt) = (
        kernel.fake_quantize_with_steps_backward(*arguments) for kernel in (cpu, plain)
    )
    assert np.array_equal(dw, expected_dw) and dt.shape == expected_dt.shape
    grad, w, steps, *_ = arguments
    terms = np.abs(grad).max() * (np.abs(w).max() + 128 * np.abs(steps).max())
    assert np.abs(dt - expected_dt).max() <= w.shape[1] * ROUNDING * terms


@each_kernel
@given(arguments=rounded_with_steps())
def test_rounding_with_given_steps_picks_the_nearest_of_all_levels(kernel, arguments):
    _, w, steps, size, low, high = arguments
    found = kernel.fake_quantize_with_steps(w, steps, size, low, high)
    step = np.repeat(steps, size, axis=1)[:, : w.shape[1]].astype(np.float64)
    levels = step[..., None] * np.arange(low, high + 1)  # (N, K, codes)
    least = np.abs(levels - w[..., None]).min(axis=-1)
    usable = np.abs(step) > 1e-38
    assert (np.abs(found - w)[usable] <= least[usable] + 4 * ROUNDING * np.abs(w[usable])).all()
    assert not found[~usable].any()


@each_kernel
def test_a_nan_stays_a_nan_with_given_steps(kernel):
    w, steps = np.ones((1, 64), np.float32), np.ones((1, 2), np.float32)
    w[0, 3] = np.nan
    found = kernel.fake_quantize_with_steps(w, steps, 32, -8, 7)
    assert np.isnan(found[0, 3]) and (np.delete(found, 3) == 1).all()
