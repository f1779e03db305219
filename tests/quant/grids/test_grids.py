"""Q4_0 and Q8_0: numbers particular to each grid, and counter-examples to untrue properties."""

import pytest
from hypothesis import given

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import GRIDS, Q4_0, Q8_0, grid_named
from tests.helpers.strategies import weight_matrices

each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=str)
each_kernel = pytest.mark.parametrize("kernel", ["plain", "auto"])

HALF_ULP_OF_FLOAT16 = 2.0**-11  # relative, of normal numbers


def row(*values):
    """Return one group with the values, then zeros: float32 (1, 32)."""
    matrix = np.zeros((1, 32), np.float32)
    matrix[0, : len(values)] = values
    return matrix


def test_bits_per_weight_of_q4_0_and_q8_0_include_the_scales():
    assert (Q4_0.bits_per_weight, Q8_0.bits_per_weight) == (4.5, 8.5)


# --------------------------------------------------------------------- distance of rounded weights


def test_counter_example_q4_0_can_move_a_weight_by_more_than_half_a_step():
    """The code +8, opposite the extreme, does not exist."""
    x = row(-8, 8)
    assert Q4_0.fake_quantize(x)[0, :2].tolist() == [-8, 7]  # the step is 1


def test_counter_example_q4_0_can_move_a_weight_by_more_than_a_step_if_its_scale_is_rounded_down():
    step = 1 + HALF_ULP_OF_FLOAT16  # halfway between two float16 numbers, and stored as 1
    x = row(-8 * step, 8 * step)
    assert Q4_0.fake_quantize(x)[0, :2].tolist() == [-8, 7]
    assert 8 * step - 7 > step * (1 + 6 * HALF_ULP_OF_FLOAT16)


# --------------------------------------------------------------------------------------- symmetries


@each_grid
def test_counter_example_scaling_by_three_does_not_scale_the_result(grid):
    x = row(-1.1, 0.3, 0.77)
    assert not np.array_equal(grid.fake_quantize(3 * x), 3 * grid.fake_quantize(x))


def test_counter_example_q4_0_keeps_only_the_first_of_two_opposite_extremes():
    assert Q4_0.fake_quantize(row(8, -8))[0, :2].tolist() == [8, -7]
    assert Q4_0.fake_quantize(row(-8, 8))[0, :2].tolist() == [-8, 7]


@given(x=weight_matrices())
def test_the_extreme_of_a_group_gets_the_lowest_code_in_q4_0_and_an_outermost_one_in_q8_0(x):
    groups = x.reshape(-1, 32)
    # In smaller groups, all codes are 0.
    groups = groups[np.abs(groups).max(axis=-1) > 127 * 2.0**-127]
    if len(groups):
        extreme = np.abs(groups).argmax(axis=-1)[:, None]
        assert (np.take_along_axis(Q4_0.encode(groups)[0], extreme, axis=-1) == -8).all()
        assert (np.abs(np.take_along_axis(Q8_0.encode(groups)[0], extreme, axis=-1)) == 127).all()


def test_halves_are_rounded_away_from_zero_in_q8_0_and_up_in_q4_0():
    below_a_half = np.nextafter(np.float32(0.5), np.float32(0))
    q8_0 = row(127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, below_a_half)  # the step is 1
    assert Q8_0.encode(q8_0)[0][0, :8].tolist() == [127, 1, 2, 3, -1, -2, -3, 0]
    q4_0 = row(-8, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5)  # the step is 1; below, it is -1
    assert Q4_0.encode(q4_0)[0][0, :7].tolist() == [-8, 1, 2, 3, 0, -1, -2]
    assert Q4_0.fake_quantize(-q4_0)[0, :7].tolist() == [8, -1, -2, -3, 0, 1, 2]


# -------------------------------------------------------------------------------------- edge cases


@each_kernel
@each_grid
@pytest.mark.parametrize("size", [1e-45, 1e-42, 2.0**-128, 1e-38, 1e-30, 1e-9])
def test_a_group_too_small_for_a_float16_scale_becomes_zeros(grid, kernel, size):
    x = np.linspace(-size, size, 32, dtype=np.float32)[None]
    kernels.use(kernel)
    try:
        codes, scales = grid.encode(x)
        assert codes.min() >= grid.min_code and codes.max() <= grid.max_code
        parts = [scales] if isinstance(scales, np.ndarray) else scales
        assert not any(part.any() for part in parts) and not grid.fake_quantize(x).any()
        assert size > 2.0**-128 or not codes.any()  # at or below 2**-128, even 1 / d is infinite
    finally:
        kernels.use("auto")


def test_an_unknown_grid_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        UserError, match="unknown grid 'q4_3': use q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q6_k, or"
    ):
        grid_named("q4_3")
