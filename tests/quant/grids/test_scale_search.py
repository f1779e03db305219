"""Searched scales are the best of those tried, and never worse than the grid's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.grids.scale_search import group_errors, search_scales
from tests.helpers.strategies import weight_matrices
from tests.quant.ptq.cases import arrays_of, each_grid, normal_weights, same


@each_grid
@given(x=weight_matrices(max_magnitude=100.0), seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_searched_scales_never_have_a_larger_error_than_the_grids_own(grid, x, seed):
    importance = np.random.default_rng(seed).exponential(size=x.shape[1])
    found, own = search_scales(grid, x, importance), grid.encode(x)
    assert (
        group_errors(grid, x, *found, importance) <= group_errors(grid, x, *own, importance)
    ).all()


@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
def test_super_block_grids_use_their_own_scale_search(name):
    grid, x = grid_named(name), normal_weights(2, 512)
    importance = np.random.default_rng(2).exponential(size=512)
    assert same(search_scales(grid, x, importance), grid.encode(x, importance=importance))
    assert same(search_scales(grid, x), grid.encode(x))
    assert not same(search_scales(grid, x), search_scales(grid, x, importance))


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "int3-affine-g32", "int2-restricted-channel"])
def test_each_group_gets_the_tried_scale_with_the_smallest_error(name):
    """The reference searches each group separately and sums errors sequentially in float64. Ties go
    to the scale that was tried first.
    """
    grid, x = grid_named(name), normal_weights(6, 64, seed=8, spread=1.0)
    importance = np.random.default_rng(5).exponential(size=64)
    codes, scales = search_scales(grid, x, importance)
    size = grid.group_size or 64
    for row in range(6):
        for first in range(0, 64, size):
            group = x[row : row + 1, first : first + size]
            weights = importance[first : first + size]
            tried = [grid.encode(group)]
            for step in range(41):
                new = grid.encode(group * np.float32(0.4 + 0.02 * step))[1]
                tried.append((grid.nearest(group, new), new))
            errors = [
                ((grid.decode(*pair).astype(np.float64) - group) ** 2 * weights).sum()
                for pair in tried
            ]
            best = tried[int(np.argmin(errors))]
            assert np.array_equal(codes[row : row + 1, first : first + size], best[0])
            for whole, part in zip(arrays_of(scales), arrays_of(best[1]), strict=True):
                assert whole[row, first // size] == part


def test_scaling_the_importance_changes_nothing_and_none_means_equal_importance():
    x, importance = normal_weights(8, 64), np.random.default_rng(1).exponential(size=64)
    assert same(search_scales(Q4_0, x, importance), search_scales(Q4_0, x, 1024 * importance))
    assert same(search_scales(Q4_0, x), search_scales(Q4_0, x, np.full(64, 0.5)))


def test_an_important_column_is_rounded_with_a_smaller_error():
    x, importance = normal_weights(32, 64), np.ones(64)
    importance[10] = 1000.0
    errors = [
        np.abs(Q4_0.decode(*search_scales(Q4_0, x, weights))[:, 10] - x[:, 10]).mean()
        for weights in (importance, None)
    ]
    assert errors[0] < 0.5 * errors[1]
