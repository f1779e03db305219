"""What training asks of a grid agrees with what files ask of it: scales, values and levels."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.quant.grids.scales import has_step_and_minimum, map_scales, stretched
from tests.grid_properties import GRIDS
from tests.helpers.strategies import matrices_for, uniform_grids

each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def assert_same_scales(found, expected):
    found, expected = (s if isinstance(s, tuple) else (s,) for s in (found, expected))
    for array, other in zip(found, expected, strict=True):
        assert array.shape == other.shape and np.array_equal(array, other)


def check_given_scales(grid, x, factor):
    """Compare the values of the nearest levels for scales whose steps are multiplied by factor."""
    scales = grid.encode(x)[1]
    assert_same_scales(grid.scales(x), scales)
    if has_step_and_minimum(scales):
        scales = map_scales(lambda array: array * np.float32(factor), scales)
    elif not isinstance(scales, tuple) or scales._fields == ("step", "zero"):
        scales = stretched(grid, scales, np.float32(factor))
    values = grid.decode(grid.nearest(x, scales), scales)
    assert grid.nearest_values(x, scales).tobytes() == values.tobytes()
    assert grid.nearest_values(x.astype(np.float64), scales).dtype == np.float64
    return scales


@each_grid
@given(data=st.data(), factor=st.sampled_from([1.0, 0.37, -0.6, 3.0, 1e-3]))
@settings(max_examples=15)
def test_the_nearest_values_are_those_of_the_nearest_codes_bit_for_bit(grid, data, factor):
    check_given_scales(grid, data.draw(matrices_for(grid, 1000.0)), factor)


@given(grid=uniform_grids(), data=st.data(), factor=st.sampled_from([1.0, 0.37, 3.0, 1e-3]))
def test_the_nearest_values_of_any_uniform_grid_are_those_of_the_nearest_codes(grid, data, factor):
    x = data.draw(matrices_for(grid, 1000.0))
    scales = check_given_scales(grid, x, factor)
    codes = grid.nearest(x, scales)
    for end, code in zip(
        grid.outermost_levels(scales), (grid.min_code, grid.max_code), strict=True
    ):
        level = grid.decode(np.full_like(codes, code), scales)
        size = grid.group_size or x.size // len(end)
        of_weights = end.repeat(size, axis=1)[:, : x.size // len(end)].reshape(x.shape)
        assert np.array_equal(of_weights, level)


@each_grid
def test_the_outermost_levels_are_the_values_of_the_outermost_codes(grid):
    x = np.random.default_rng(5).standard_normal((2, 256)).astype(np.float32)
    codes, scales = grid.encode(x)
    for end, code in zip(
        grid.outermost_levels(scales), (grid.min_code, grid.max_code), strict=True
    ):
        level = grid.decode(np.full_like(codes, code), scales)
        first = np.linspace(0, 255, end.shape[1] + 1).astype(int)[:-1] if end.shape[1] > 1 else [0]
        assert np.isin(level, end).all() and np.array_equal(level[: len(end), first[0]], end[:, 0])
