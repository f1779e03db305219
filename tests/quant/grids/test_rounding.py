"""Rounding modes agree except at halves, where each does what its name says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.quant.grids.rounding import ROUNDINGS, half_away, half_even, half_up, stochastic

numbers = st.lists(st.floats(-(2.0**30), 2.0**30, width=32), min_size=1, max_size=20).map(
    lambda x: np.array(x, np.float32)
)
each_mode = pytest.mark.parametrize("rounding", ROUNDINGS.values(), ids=ROUNDINGS.keys())


@each_mode
@given(x=numbers)
def test_every_mode_rounds_to_a_nearest_integer(rounding, x):
    rounded = rounding(x)
    assert rounded.dtype == x.dtype and np.array_equal(rounded, np.trunc(rounded))
    assert (np.abs(rounded.astype(np.float64) - x) <= 0.5).all()


@each_mode
@given(x=numbers)
def test_rounding_keeps_integers(rounding, x):
    assert np.array_equal(rounding(np.trunc(x)), np.trunc(x))


HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_half_away_rounds_halves_away_from_zero_and_values_just_below_them_toward_zero(dtype):
    halves = HALVES.astype(dtype)
    expected, found = [-3, -2, -1, 1, 2, 3], half_away(halves).tolist()
    assert found == expected, f"halves must go away from zero: expected {expected}, got {found}"
    below = np.nextafter(halves, dtype(0))
    assert half_away(below).tolist() == [-2, -1, 0, 0, 1, 2], (
        "do not compute x + 0.5: the sum is rounded, so 0.49999997 becomes 1"
    )


@given(x=numbers)
def test_half_away_rounds_to_the_nearest_integer_and_halves_away_from_zero(x):
    rounded = half_away(x)
    assert rounded.dtype == x.dtype, f"expected {x.dtype}, got {rounded.dtype}"
    assert np.array_equal(rounded, np.trunc(rounded)), (
        f"{x.tolist()} gave {rounded.tolist()}, which are no integers"
    )
    error = np.abs(rounded.astype(np.float64) - x)
    assert (error <= 0.5).all(), f"{x.tolist()} gave {rounded.tolist()}: not the nearest integers"
    assert (np.abs(rounded) > np.abs(x))[error == 0.5].all(), "halves must go away from zero"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_half_away_keeps_integers_that_no_integer_type_of_numpy_can_hold(dtype):
    x = np.array([2.0**31, -(2.0**32), 2.0**63, -(2.0**70), 1e30, -3e38], dtype)
    rounded = half_away(x)
    assert rounded.dtype == dtype and rounded.tolist() == x.tolist(), (
        f"expected {x.tolist()}, got {rounded.tolist()}: do not convert to integers"
    )


def test_half_even_rounds_halves_to_even_integers_and_half_up_rounds_them_up():
    assert half_even(HALVES).tolist() == [-2, -2, 0, 0, 2, 2]
    assert half_up(HALVES).tolist() == [-2, -1, 0, 1, 2, 3]


@each_mode
def test_every_mode_rounds_quarters_to_the_nearer_integer_on_both_sides_of_zero(rounding):
    x = np.array(
        [-2.75, -2.25, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75], np.float32
    )
    assert rounding(x).tolist() == [-3, -2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3]


@each_mode
def test_a_value_just_below_a_half_is_rounded_to_zero(rounding):
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert rounding(np.array([below, -below])).tolist() == [0, 0]


@given(x=numbers, seed=st.integers(0, 2**32))
def test_stochastic_rounding_moves_a_number_by_less_than_one_and_keeps_integers(x, seed):
    rounding = stochastic(np.random.default_rng(seed))
    assert (np.abs(rounding(x).astype(np.float64) - x) < 1).all()
    assert np.array_equal(rounding(np.trunc(x)), np.trunc(x))


def test_stochastic_rounding_keeps_integers_even_if_the_random_number_is_zero():
    class Lowest:
        def random(self, shape):
            return np.zeros(shape)

    assert stochastic(Lowest())(np.array([-1.0, 0.0, 2.0, 2.5])).tolist() == [-1, 0, 2, 3]


@pytest.mark.parametrize("value", [-2.999, -0.25, 0.001, 0.5, 3.7, 1000.0625])
def test_the_mean_of_stochastic_roundings_is_the_unrounded_number(value):
    """The tolerance is four standard errors of a variable that is 1 with probability p.

    One of the p is far below 2**-8.
    """
    draws = 200_000
    rounded = stochastic(np.random.default_rng(0))(np.full(draws, value, np.float64))
    p = value - np.floor(value)
    assert abs(rounded.mean() - value) <= 4 * np.sqrt(p * (1 - p) / draws)
