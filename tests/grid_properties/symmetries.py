"""Symmetries: negation, scaling, order, shuffling, and groups that do not affect each other."""

from minimtp.backend import numpy as np
from minimtp.quant.grids import Q6_K, BlockGrid
from tests.grid_properties.catalogue import (
    alone,
    bits,
    given_that,
    grid_property,
    groups_of,
    is_normal,
    opposite_extremes,
    policy,
    searched,
)

# ggml's search for Q6_K compares (sum of w x l)², w = x², over 16 weights with |l| <= 32. From
# 2**18.3 on it may overflow float32:
# `test_counter_example_the_search_of_q6_k_overflows_for_enormous_weights`.
MAX_SEARCHED_BY_Q6_K = 2.0**18


@grid_property(
    holds=lambda grid: policy(grid) in ("restricted", "ggml-signed", "ternary") or grid is Q6_K
)
def negated_weights_are_rounded_to_negated_values(grid, x, rng):
    assert np.array_equal(grid.fake_quantize(-x), -grid.fake_quantize(x))


@grid_property()
def scaling_by_a_power_of_two_scales_the_result_if_scales_are_normal_numbers(grid, x, rng):
    factor = np.float32(2.0 ** int(rng.integers(-8, 9)))
    scale_type = getattr(grid, "scale_type", "float16")
    if scale_type == "float32":  # float32 scales have no lower bound: try larger factors
        factor = factor ** np.float32(6)
    largest = MAX_SEARCHED_BY_Q6_K if grid is Q6_K else grid.max_magnitude
    given_that(np.abs(x).max() * max(factor, 1) <= largest)
    given_that((np.abs(x[x != 0]) * min(factor, 1) >= 2.0**-90).all())
    given_that(
        is_normal(grid.encode(x)[1], scale_type)
        and is_normal(grid.encode(factor * x)[1], scale_type)
    )
    assert np.array_equal(grid.fake_quantize(factor * x), factor * grid.fake_quantize(x))


@grid_property(
    holds=lambda grid: False, about=lambda grid: getattr(grid, "scale_type", "float16") == "float16"
)
def scaling_by_three_scales_the_result(grid, x, rng):
    assert np.array_equal(grid.fake_quantize(3 * x), 3 * grid.fake_quantize(x))


@grid_property()
def rounding_keeps_the_order_of_weights_that_share_a_scale(grid, x, rng):
    rounded = grid.fake_quantize(x)
    for group in groups_of(grid, x):
        order = np.argsort(x[group], axis=None, kind="stable")
        assert (np.diff(rounded[group].reshape(-1)[order]) >= 0).all()


@grid_property(holds=lambda grid: not isinstance(grid, BlockGrid) and grid.granularity == "tensor")
def rounding_keeps_the_order_of_all_weights(grid, x, rng):
    order = np.argsort(x, axis=None, kind="stable")
    assert (np.diff(grid.fake_quantize(x).reshape(-1)[order]) >= 0).all()


@grid_property(about=lambda grid: not searched(grid))
def shuffling_weights_that_share_a_scale_shuffles_the_result(grid, x, rng):
    """Searched grids are left out. Their search sums in the order of the weights, so the last bit
    of a sum can, rarely, change the result.
    """
    rounded = grid.fake_quantize(x)
    for group in groups_of(grid, x):
        given_that(policy(grid) != "ggml-signed" or not opposite_extremes(x[group]))
    for group in alone(grid, x):
        piece, pieces = x[group], groups_of(grid, x[group])
        order = np.arange(piece.size).reshape(piece.shape)
        for inner in pieces:
            order[inner] = rng.permutation(order[inner].reshape(-1)).reshape(order[inner].shape)
        shuffled = grid.fake_quantize(np.ascontiguousarray(piece.reshape(-1)[order]))
        assert np.array_equal(shuffled, rounded[group].reshape(-1)[order])


@grid_property()
def a_group_is_rounded_the_same_alone_as_in_the_whole_matrix(grid, x, rng):
    rounded = grid.fake_quantize(x)
    for group in alone(grid, x):
        assert bits(grid.fake_quantize(np.ascontiguousarray(x[group]))) == bits(
            np.ascontiguousarray(rounded[group])
        )
