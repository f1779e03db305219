"""Zeros, equal weights, tiny and huge weights, and arrays that must be rejected."""

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import Q4_1, Q4_K, Q5_1, BlockGrid
from tests.grid_properties.catalogue import (
    HALF_ULP_OF_FLOAT16,
    alone,
    grid_property,
    policy,
    searched,
)


@grid_property()
def no_undefined_operation_occurs(grid, x, rng):
    """No 0 / 0, overflow or cast of NaN to an integer, whose results depend on the machine."""
    for y in (x, np.zeros_like(x), np.full_like(x, 1e-45), np.full_like(x, x[0, 0])):
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            codes, scales = grid.encode(y)
            grid.nearest(y, scales)
            grid.decode(codes, scales)
            grid.fake_quantize(y)


@grid_property()
def zeros_stay_zeros(grid, x, rng):
    assert not grid.fake_quantize(np.zeros_like(x)).any()
    y = x.copy()
    for group in alone(grid, x)[:1]:
        y[group] = 0
        assert not grid.fake_quantize(y)[group].any()


@grid_property(holds=lambda grid: grid not in (Q4_1, Q4_K, Q5_1))
def zero_is_exact_among_any_weights(grid, x, rng):
    y = x.copy()
    y[int(rng.integers(len(x))), int(rng.integers(x.shape[1]))] = 0
    assert not grid.fake_quantize(y)[y == 0].any()


@grid_property()
def equal_weights_come_back_equal_finite_and_close(grid, x, rng):
    """Close means exact up to the rounding of the scale. `full-mid` has no level at the extreme, so
    half a step is added. Searched scales are within one percent.
    """
    value = np.float32(rng.choice([-1, 1]) * 2.0 ** rng.uniform(-6, 8))
    back = grid.fake_quantize(np.full_like(x, value))
    slack = 0.01 if searched(grid) else HALF_ULP_OF_FLOAT16 * 1.01
    if policy(grid) == "full-mid":
        slack += 0.5 / grid.steps_to_the_extreme
    assert np.isfinite(back).all() and (np.abs(back / value - 1) <= slack).all()


@grid_property()
def groups_too_small_for_a_normal_scale_become_zeros(grid, x, rng):
    for size in (1e-45, 1e-42, 5e-39):
        tiny = np.linspace(-size, size, x.size, dtype=np.float32).reshape(x.shape)
        codes, scales = grid.encode(tiny)
        assert grid.min_code <= codes.min() and codes.max() <= grid.max_code
        assert not grid.decode(codes, scales).any() and not grid.fake_quantize(tiny).any()


@grid_property()
def max_magnitude_stays_finite_and_larger_weights_are_rejected_by_name(grid, x, rng):
    limit = np.float32(grid.max_magnitude)
    for sign in (1, -1):
        y = np.clip(x, -1, 1) * 0
        y.flat[0], y.flat[-1] = limit, sign * limit
        assert np.isfinite(grid.fake_quantize(y)).all()
        assert np.isfinite(grid.fake_quantize(np.full_like(x, sign * limit))).all()
    y.flat[0] = np.nextafter(limit, np.float32(np.inf))
    for rounding in (grid.encode, grid.fake_quantize):
        with pytest.raises(UserError, match="blocks.0.down.weight holds a value of magnitude"):
            rounding(y, "blocks.0.down.weight")


@grid_property()
def a_non_finite_value_is_rejected_by_name(grid, x, rng):
    for bad in (np.nan, np.inf, -np.inf):
        y = x.copy()
        y.flat[int(rng.integers(x.size))] = bad
        for rounding in (grid.encode, grid.fake_quantize):
            with pytest.raises(UserError, match="head 3 holds values that are not finite"):
                rounding(y, "head 3")


@grid_property()
def a_shape_that_cannot_be_stored_is_rejected_by_name(grid, x, rng):
    shapes = (
        [(32,), (1, 2, 256), (2, 33), (2, 16)]
        if isinstance(grid, BlockGrid)
        else [(32,), (1, 2, 256), (0, 4), (4, 0)]
    )
    for shape in shapes:
        for rounding in (grid.encode, grid.fake_quantize):
            with pytest.raises(UserError, match="the table has shape"):
                rounding(np.zeros(shape, np.float32), "the table")
