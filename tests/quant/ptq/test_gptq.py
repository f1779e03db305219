"""GPTQ compared with its definition, and on inputs that break careless implementations."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.ptq.gptq import _inverse_factor, gptq, output_error
from minimtp.quant.ptq.hqq import hqq
from tests.helpers.strategies import weight_matrices
from tests.quant.ptq.cases import assert_follows_gptq, each_grid, moment, normal_weights, same


@each_grid
@given(
    x=weight_matrices(max_magnitude=100.0), factor=st.floats(1e-6, 1e6), largest_first=st.booleans()
)
@settings(max_examples=10)
def test_gptq_with_uncorrelated_inputs_of_equal_size_is_round_to_nearest(
    own, grid, x, factor, largest_first
):
    second_moment = factor * np.eye(x.shape[1])
    found = own(gptq)(grid, x, second_moment, largest_first=largest_first)
    assert_follows_gptq(grid, x, second_moment, found, largest_first=largest_first)
    # The library keeps the codes of the grid's own rule, bit for bit:
    assert same(gptq(grid, x, second_moment, largest_first=largest_first), grid.encode(x))


@each_grid
def test_gptq_without_any_inputs_is_round_to_nearest(own, grid):
    x, nothing = normal_weights(5, 64), np.zeros((64, 64))
    assert_follows_gptq(grid, x, nothing, own(gptq)(grid, x, nothing))
    assert same(gptq(grid, x, nothing), grid.encode(x))


@each_grid
def test_gptq_does_not_depend_on_how_many_groups_it_updates_at_once(own, grid):
    x, second_moment = normal_weights(16, 192), moment(192)
    results = [own(gptq)(grid, x, second_moment, groups_at_once=count) for count in (1, 2, 3, 100)]
    assert all(same(results[0], result) for result in results[1:]), (
        "codes and scales must not depend on groups_at_once"
    )


@each_grid
@pytest.mark.parametrize("largest_first", [False, True])
def test_gptq_equals_updating_the_inverse_column_by_column(own, grid, largest_first):
    x, second_moment = normal_weights(8, 64, seed=3), moment(64, seed=4)
    found = own(gptq)(grid, x, second_moment, largest_first=largest_first)
    assert_follows_gptq(grid, x, second_moment, found, largest_first=largest_first)


@each_grid
@pytest.mark.parametrize("largest_first", [False, True])
def test_gptq_keeps_scales_that_were_chosen_beforehand(own, grid, largest_first):
    x, second_moment = normal_weights(8, 64, seed=5), moment(64, seed=6)
    scales = grid.encode(np.float32(0.8) * x)[1]
    beforehand = grid.nearest(x, scales), scales
    found = own(gptq)(grid, x, second_moment, beforehand=beforehand, largest_first=largest_first)
    assert same((found[0], scales), found), "the scales chosen beforehand must not change"
    assert_follows_gptq(
        grid, x, second_moment, found, beforehand=beforehand, largest_first=largest_first
    )


def test_gptq_rounds_the_rows_of_a_matrix_independently(own):
    x, second_moment = normal_weights(6, 96), moment(96)
    whole = own(gptq)(Q4_0, x, second_moment)
    for row in range(6):
        codes, scales = own(gptq)(Q4_0, x[row : row + 1], second_moment)
        alone_and_together = (codes, whole[0][row : row + 1]), (scales, whole[1][row : row + 1])
        assert all(np.array_equal(*pair) for pair in alone_and_together), (
            f"row {row} is rounded differently without the other rows"
        )


@pytest.mark.parametrize("exponent", [-40, -10, 12])
def test_gptq_does_not_depend_on_the_unit_of_the_inputs(own, exponent):
    """Only the ratios of the moments matter, even for tiny moments. The units are powers of two, so
    scaling is exact.
    """
    x, second_moment = normal_weights(8, 64), moment(64)
    assert same(
        own(gptq)(Q4_0, x, second_moment * 2.0**exponent), own(gptq)(Q4_0, x, second_moment)
    ), f"second moments that are 2**{exponent} times as large give another result"


def test_gptq_treats_an_input_that_is_always_zero_as_uncorrelated_with_the_mean_size(own):
    x, second_moment = normal_weights(8, 64), moment(64)
    second_moment[[3, 40]] = second_moment[:, [3, 40]] = 0
    alive = second_moment.copy()
    alive[[3, 40], [3, 40]] = second_moment.trace() / 62
    assert same(own(gptq)(Q4_0, x, second_moment), own(gptq)(Q4_0, x, alive)), (
        "inputs 3 and 40 are always 0: expected the result with the mean H_jj for them"
    )
    assert np.array_equal(_inverse_factor(second_moment, "down"), _inverse_factor(alive, "down"))


def test_gptq_rounds_columns_with_equally_large_inputs_from_left_to_right():
    """Two input sizes alternate. Columns of the larger size come first, from left to right."""
    x, related = normal_weights(8, 128), moment(128)
    sizes = np.sqrt(np.diag(related) / np.tile([1.0, 4.0], 64))
    second_moment = related / np.outer(sizes, sizes)
    np.fill_diagonal(second_moment, np.tile([1.0, 4.0], 64))
    grid = grid_named("int4-restricted-channel")  # one scale per row, so columns can be shuffled
    order = [*range(1, 128, 2), *range(0, 128, 2)]
    codes, scales = grid.encode(x)
    shuffled = gptq(
        grid, x[:, order], second_moment[order][:, order], beforehand=(codes[:, order], scales)
    )
    found = gptq(grid, x, second_moment, largest_first=True)
    assert same((found[0][:, order], found[1]), shuffled)


def test_gptq_rounds_columns_from_left_to_right_unless_largest_first_is_set():
    x, second_moment = normal_weights(8, 64), moment(64)
    assert same(gptq(Q4_0, x, second_moment), gptq(Q4_0, x, second_moment, largest_first=False))
    assert not same(gptq(Q4_0, x, second_moment), gptq(Q4_0, x, second_moment, largest_first=True))


@pytest.mark.parametrize("negative", [0.0, 0.003, 0.05, 0.5])
def test_damping_is_one_percent_of_the_mean_times_the_smallest_sufficient_power_of_ten(negative):
    """A moment matrix that has a negative eigenvalue after rounding needs more damping.

    `negative` is the magnitude of this eigenvalue before all are divided by their mean.
    """
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    eigenvalues = np.array([-negative, 0.2, 0.5, 1.0, 2.0, 4.0])
    second_moment = rotation @ np.diag(eigenvalues / eigenvalues.mean()) @ rotation.T
    second_moment = (second_moment + second_moment.T) / 2
    factor = _inverse_factor(second_moment, "down")
    assert np.array_equal(factor, np.triu(factor))
    damping = np.linalg.inv(factor.T @ factor) - second_moment
    added = np.diag(damping).mean() / np.diag(second_moment).mean()
    assert np.allclose(damping, added * np.eye(6), atol=1e-9)
    needed = negative / eigenvalues.mean()
    expected = next(0.01 * 10**k for k in range(6) if 0.01 * 10**k > needed)
    assert added == pytest.approx(expected, rel=1e-6)


def test_the_output_error_is_summed_in_double_precision():
    difference, second_moment = normal_weights(64, 64, spread=1000.0), moment(64)
    exact = sum(float(row @ second_moment @ row) for row in difference.astype(np.float64))
    assert output_error(difference, second_moment) == pytest.approx(exact, rel=1e-12)


@each_grid
def test_a_column_whose_input_is_always_zero_is_rounded_independently_of_other_columns(grid):
    x, second_moment = normal_weights(8, 64), moment(64)
    dead = [0, 17, 63]
    second_moment[dead] = second_moment[:, dead] = 0
    codes, scales = gptq(grid, x, second_moment, beforehand=search_scales(grid, x))
    alone = search_scales(grid, x)
    assert np.array_equal(codes[:, dead], alone[0][:, dead])
    other = x.copy()
    other[:, dead] *= 0.5  # still within the range of the scales
    fixed = (grid.nearest(other, scales), scales)
    live = [j for j in range(64) if j not in dead]
    assert np.array_equal(
        gptq(grid, other, second_moment, beforehand=fixed)[0][:, live], codes[:, live]
    )


@pytest.mark.parametrize("rank", [1, 5])
def test_gptq_with_fewer_inputs_than_columns_is_finite_and_better_than_round_to_nearest(own, rank):
    x, second_moment = normal_weights(16, 96), moment(96, rows=rank)
    codes, scales = own(gptq)(Q4_0, x, second_moment)
    assert np.isfinite(scales).all(), "a scale is not finite"
    assert codes.min() >= -8 and codes.max() <= 7, f"codes from {codes.min()} to {codes.max()}"
    found, nearest = (
        output_error(Q4_0.decode(*pair) - x, second_moment)
        for pair in ((codes, scales), Q4_0.encode(x))
    )
    assert found < 0.2 * nearest, (
        f"the error of the outputs is {found / nearest:.2f} times that of round to nearest: "
        "expected less than 0.2"
    )


def test_gptq_beats_searched_scales_and_searched_scales_beat_round_to_nearest():
    """This is not guaranteed, but it is the purpose of the methods."""
    x, second_moment = normal_weights(64, 128), moment(128)
    searched = search_scales(Q4_0, x, np.diag(second_moment))
    found = gptq(Q4_0, x, second_moment, beforehand=searched, largest_first=True)
    errors = [
        output_error(Q4_0.decode(*pair) - x, second_moment)
        for pair in (found, searched, Q4_0.encode(x))
    ]
    assert errors[0] < 0.7 * errors[1] and errors[1] < 0.7 * errors[2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_or_weights_that_are_not_finite_are_an_error_that_names_the_matrix(value):
    x, second_moment = normal_weights(4, 64), moment(64)
    broken = second_moment.copy()
    broken[3, 3] = value
    with pytest.raises(
        UserError, match="the inputs of down are not finite on the calibration text"
    ):
        gptq(Q4_0, x, broken, "down")
    x[1, 2] = value
    methods = (
        lambda *name: gptq(Q4_0, x, second_moment, *name),
        lambda *name: hqq(Q4_0, x, *name),
        lambda *name: search_scales(Q4_0, x, None, *name),
    )
    for names, called in (([], "the array"), (["down"], "down")):
        for method in methods:
            with pytest.raises(UserError, match=f"^{called} holds values that are not finite"):
                method(*names)


@each_grid
@pytest.mark.parametrize("dead", [[], [0, 17, 63]])
def test_gptq_has_the_same_bits_if_the_inputs_have_another_unit_that_is_a_power_of_two(grid, dead):
    x, second_moment = normal_weights(8, 64), moment(64)
    second_moment[dead] = second_moment[:, dead] = 0
    expected = gptq(grid, x, second_moment)
    for power in (-24, -8, 12):
        assert same(gptq(grid, x, second_moment * 2.0**power), expected)
