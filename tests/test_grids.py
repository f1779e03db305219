"""The catalogue of what is true of the grids, each property at its true value, and counter-examples where one is false."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import GRIDS, Q4_0, Q8_0, grid_named
from tests.strategies import weight_matrices

each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=str)
each_kernel = pytest.mark.parametrize("kernel", ["plain", "auto"])

HALF_ULP_OF_FLOAT16 = 2.0**-11  # relative, of normal numbers
HALF_SUBNORMAL_FLOAT16 = 2.0**-25  # absolute
SMALLEST_NORMAL_FLOAT16 = 2.0**-14


def row(*values):
    """One group: the values, then zeros."""
    matrix = np.zeros((1, 32), np.float32)
    matrix[0, : len(values)] = values
    return matrix


def unrounded_steps(grid, x):
    """|d| of each element's group before it is stored as a float16, in float64: (N, K)."""
    largest = np.abs(x.reshape(x.shape[0], -1, 32)).max(axis=-1).astype(np.float64)
    return np.repeat(largest / (8 if grid is Q4_0 else 127), 32, axis=-1)


def error_from_scale(grid, x, code):
    """How much rounding the step to float16 can move `code` steps."""
    return code * np.maximum(unrounded_steps(grid, x) * HALF_ULP_OF_FLOAT16, HALF_SUBNORMAL_FLOAT16)


def test_the_published_sizes_include_the_scales():
    assert (Q4_0.bits_per_weight, Q8_0.bits_per_weight) == (4.5, 8.5)


@each_grid
@given(x=weight_matrices())
def test_codes_are_integers_of_the_grid_and_scales_are_float16_values(grid, x):
    codes, scales = grid.encode(x)
    assert codes.dtype == np.int8 and codes.shape == x.shape
    assert codes.min() >= grid.smallest_code and codes.max() <= grid.largest_code
    assert scales.dtype == np.float32 and scales.shape == (x.shape[0], x.shape[1] // 32)
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))


@each_kernel
@each_grid
@given(x=weight_matrices())
def test_fake_quantization_is_decoding_the_code_bit_for_bit(grid, kernel, x):
    kernels.use(kernel)
    try:
        faked = grid.fake_quantize(x)
    finally:
        kernels.use("auto")
    assert faked.dtype == x.dtype
    assert faked.tobytes() == grid.decode(*grid.encode(x)).tobytes()


@each_grid
@given(x=weight_matrices())
def test_double_precision_weights_are_rounded_as_the_float32_format_will(grid, x):
    precise = x.astype(np.float64)
    faked = grid.fake_quantize(precise)
    assert faked.dtype == np.float64 and np.array_equal(faked, grid.decode(*grid.encode(x)))
    assert grid.encode(precise)[0].tobytes() == grid.encode(x)[0].tobytes()


# ------------------------------------------------------------------------------------------------- how far rounding moves


@given(x=weight_matrices())
def test_q8_0_moves_a_weight_by_at_most_half_a_step_and_the_rounding_of_the_scale(x):
    error = np.abs(Q8_0.fake_quantize(x) - x.astype(np.float64))
    assert (error <= unrounded_steps(Q8_0, x) * (0.5 + 1e-5) + error_from_scale(Q8_0, x, 127) * (1 + 1e-6)).all()


@given(x=weight_matrices())
def test_q4_0_moves_a_weight_by_at_most_a_whole_step_and_the_rounding_of_the_scale(x):
    error = np.abs(Q4_0.fake_quantize(x) - x.astype(np.float64))
    assert (error <= unrounded_steps(Q4_0, x) * (1 + 1e-5) + error_from_scale(Q4_0, x, 8) * (1 + 1e-6)).all()


@given(x=weight_matrices())
def test_q4_0_moves_a_weight_that_is_not_clipped_by_at_most_half_a_step_and_the_rounding_of_the_scale(x):
    kept = Q4_0.straight_through_mask(x, "round-clip")
    error = np.abs(Q4_0.fake_quantize(x) - x.astype(np.float64))
    bound = unrounded_steps(Q4_0, x) * (0.5 + 1e-5) + error_from_scale(Q4_0, x, 8) * (1 + 1e-6)
    assert (error <= bound)[kept].all()


def test_counter_example_q4_0_can_miss_by_more_than_half_a_step():
    """Opposite to the extreme the code +8 does not exist."""
    x = row(-8, 8)
    assert Q4_0.fake_quantize(x)[0, :2].tolist() == [-8, 7]  # the step is 1


def test_counter_example_q4_0_can_miss_by_more_than_a_step_when_the_scale_is_rounded_down():
    step = 1 + HALF_ULP_OF_FLOAT16  # half way between two float16 numbers, stored as 1
    x = row(-8 * step, 8 * step)
    assert Q4_0.fake_quantize(x)[0, :2].tolist() == [-8, 7]
    assert 8 * step - 7 > step * (1 + 6 * HALF_ULP_OF_FLOAT16)


@pytest.mark.parametrize(("grid", "decibels"), [(Q4_0, 21.3), (Q8_0, 45.4)], ids=str)
def test_the_noise_on_bell_shaped_weights_is_neither_more_nor_less_than_known(grid, decibels):
    """Two-sided: a quantizer that rounds nothing fails as one that rounds badly does."""
    x = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32) * np.float32(0.02)
    noise = np.square(grid.fake_quantize(x) - x, dtype=np.float64).mean()
    assert 10 * np.log10(np.square(x, dtype=np.float64).mean() / noise) == pytest.approx(decibels, abs=0.2)


@each_grid
@given(x=weight_matrices(), factor=st.floats(0.3, 1.3))
def test_with_given_scales_no_level_is_nearer_than_the_chosen_one(grid, x, factor):
    scales = (grid.encode(x)[1] * np.float32(factor)).astype(np.float16).astype(np.float32)
    codes = grid.nearest(x, scales)
    assert codes.dtype == np.int8 and grid.smallest_code <= codes.min() and codes.max() <= grid.largest_code
    error = np.abs(grid.decode(codes, scales) - x.astype(np.float64))
    for other in range(grid.smallest_code, grid.largest_code + 1):
        rival = np.abs(grid.decode(np.full_like(codes, other), scales) - x.astype(np.float64))
        assert (error <= rival + 1e-6 * np.abs(x)).all()  # a tie in exact arithmetic is none in float32


# -------------------------------------------------------------------------------------------------------------- symmetries


@each_grid
@given(x=weight_matrices())
def test_rounding_twice_is_rounding_once(grid, x):
    once = grid.fake_quantize(x)
    assert np.array_equal(grid.fake_quantize(once), once)


@each_grid
@given(x=weight_matrices())
def test_the_negative_is_rounded_to_the_negative(grid, x):
    assert np.array_equal(grid.fake_quantize(-x), -grid.fake_quantize(x))


@each_grid
@given(x=weight_matrices(largest=1e3), exponent=st.integers(-8, 8))
def test_scaling_by_a_power_of_two_scales_the_result_while_the_scale_stays_a_normal_float16(grid, x, exponent):
    factor = np.float32(2.0**exponent)
    steps = unrounded_steps(grid, x)
    steps = steps[steps > 0]
    assume((steps * min(factor, 1) >= SMALLEST_NORMAL_FLOAT16).all())
    assert np.array_equal(grid.fake_quantize(factor * x), factor * grid.fake_quantize(x))


@each_grid
def test_counter_example_scaling_by_three_does_not_scale_the_result(grid):
    x = row(-1.1, 0.3, 0.77)
    assert not np.array_equal(grid.fake_quantize(3 * x), 3 * grid.fake_quantize(x))


@each_grid
@given(x=weight_matrices())
def test_rounding_keeps_the_order_within_a_group(grid, x):
    groups = x.reshape(-1, 32)
    order = np.argsort(groups, axis=-1, kind="stable")
    rounded = np.take_along_axis(grid.fake_quantize(x).reshape(-1, 32), order, axis=-1)
    assert (np.diff(rounded, axis=-1) >= 0).all()


@each_grid
@given(x=weight_matrices(), seed=st.integers(0, 2**32))
def test_shuffling_a_group_shuffles_the_result(grid, x, seed):
    order = np.random.default_rng(seed).permutation(32)
    groups = x.reshape(-1, 32)
    largest = np.abs(groups) == np.abs(groups).max(axis=-1, keepdims=True)
    assume(grid is not Q4_0 or all(len(set(group[mask])) == 1 for group, mask in zip(groups, largest, strict=True)))
    shuffled = grid.fake_quantize(np.ascontiguousarray(groups[:, order]))
    assert np.array_equal(shuffled, grid.fake_quantize(x).reshape(-1, 32)[:, order])


def test_counter_example_of_two_equal_extremes_q4_0_keeps_the_first():
    assert Q4_0.fake_quantize(row(8, -8))[0, :2].tolist() == [8, -7]
    assert Q4_0.fake_quantize(row(-8, 8))[0, :2].tolist() == [-8, 7]


@each_grid
@given(x=weight_matrices())
def test_a_group_is_rounded_the_same_alone_as_among_others(grid, x):
    whole = grid.fake_quantize(x).reshape(-1, 32)
    alone = [grid.fake_quantize(group[None])[0] for group in x.reshape(-1, 32)]
    assert whole.tobytes() == np.stack(alone).tobytes()


@given(x=weight_matrices())
def test_the_first_extreme_of_a_q4_0_group_gets_the_lowest_code_and_of_a_q8_0_group_the_outermost(x):
    groups = x.reshape(-1, 32)
    groups = groups[np.abs(groups).max(axis=-1) > 127 * 2.0**-127]  # below, the codes are 0
    if len(groups):
        extreme = np.abs(groups).argmax(axis=-1)[:, None]
        assert (np.take_along_axis(Q4_0.encode(groups)[0], extreme, axis=-1) == -8).all()
        assert (np.abs(np.take_along_axis(Q8_0.encode(groups)[0], extreme, axis=-1)) == 127).all()


def test_halves_are_rounded_away_from_zero_in_q8_0_and_upwards_in_q4_0():
    q8_0 = row(127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, np.nextafter(np.float32(0.5), np.float32(0)))  # the step is 1
    assert Q8_0.encode(q8_0)[0][0, :8].tolist() == [127, 1, 2, 3, -1, -2, -3, 0]
    q4_0 = row(-8, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5)  # the step is 1; where it is negative, upwards means downwards
    assert Q4_0.encode(q4_0)[0][0, :7].tolist() == [-8, 1, 2, 3, 0, -1, -2]
    assert Q4_0.fake_quantize(-q4_0)[0, :7].tolist() == [8, -1, -2, -3, 0, 1, 2]


# ------------------------------------------------------------------------------------------------------------ odd groups


@each_kernel
@each_grid
def test_zeros_stay_zeros(grid, kernel):
    kernels.use(kernel)
    try:
        assert not grid.fake_quantize(np.zeros((2, 64), np.float32)).any()
    finally:
        kernels.use("auto")


@each_grid
@given(value=st.floats(2.0**-6, 1e4, width=32), negative=st.booleans())
def test_a_constant_group_is_exact_but_for_the_rounding_of_the_scale(grid, value, negative):
    x = np.full((1, 32), -value if negative else value, np.float32)
    assert np.abs(grid.fake_quantize(x) - x).max() <= value * HALF_ULP_OF_FLOAT16 * (1 + 1e-5)


@each_kernel
@each_grid
@pytest.mark.parametrize("size", [1e-45, 1e-42, 2.0**-128, 1e-38, 1e-30, 1e-9])
def test_a_group_too_small_for_a_float16_scale_becomes_zeros(grid, kernel, size):
    x = np.linspace(-size, size, 32, dtype=np.float32)[None]
    kernels.use(kernel)
    try:
        codes, scales = grid.encode(x)
        assert codes.min() >= grid.smallest_code and codes.max() <= grid.largest_code
        assert not scales.any() and not grid.fake_quantize(x).any()
        assert size > 2.0**-128 or not codes.any()  # where even 1 / d is infinite
    finally:
        kernels.use("auto")


@each_grid
def test_the_largest_magnitude_is_the_last_that_can_be_stored(grid):
    limit = np.float32(grid.largest_magnitude)
    assert np.array_equal(grid.fake_quantize(row(-limit, 1)), row(-limit, 0))
    with pytest.raises(UserError, match="blocks.0.down.weight holds a value of magnitude"):
        grid.encode(row(np.nextafter(limit, np.float32(np.inf))), "blocks.0.down.weight")


@each_grid
@given(x=weight_matrices(), position=st.integers(0, 31), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_value_that_is_not_finite_is_refused_by_name(grid, x, position, bad):
    x[-1, position] = bad
    for rounding in (grid.encode, grid.fake_quantize):
        with pytest.raises(UserError, match="head 3 holds values that are not finite"):
            rounding(x, "head 3")


@each_grid
@pytest.mark.parametrize("shape", [(2, 33), (2, 16), (32,), (1, 2, 32)])
def test_rows_that_are_not_whole_groups_are_refused_by_name(grid, shape):
    for rounding in (grid.encode, grid.fake_quantize):
        with pytest.raises(UserError, match="the table has shape .* multiples of 32"):
            rounding(np.zeros(shape, np.float32), "the table")


def test_an_unknown_grid_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown grid 'q4_3': use q4_0, q4_1, q8_0, q4_k, q6_k, or"):
        grid_named("q4_3")
