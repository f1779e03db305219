"""`survival`: the share of rounds that reach each depth, if rounds ask for different depths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.policy.estimates import survival

MANY = 1e6  # number of repeated rounds, large enough to make the guess negligible


def counted(rounds, max_depth, times=MANY):
    """Return the counts (ended, censored) by depth. rounds: pairs (asked for, accepted)."""
    ended = [0.0] * (max_depth + 2)
    censored = [0.0] * (max_depth + 2)
    for asked, accepted in rounds:
        ended[accepted] += times
        censored[asked] += times * (accepted == asked)
    return ended, censored


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_if_every_round_asks_for_all_depths_survival_is_the_share_that_reaches_each(own, accepted):
    shares = own(survival)(*counted([(5, a) for a in accepted], 5), 5, 0.5)
    expected = [np.mean([a >= depth for a in accepted]) for depth in range(1, 6)]
    assert shares == pytest.approx(expected, abs=1e-4), (
        "a factor is the share that continues, among the rounds that could continue"
    )


def test_rounds_that_ask_for_few_drafts_do_not_lower_the_shares_of_deeper_ones(own):
    rounds = [(1, 1)] * 2 + [(4, 3), (4, 4)]
    shares = own(survival)(*counted(rounds, 4), 4, 0.5)
    assert shares == pytest.approx([1, 1, 1, 0.5], abs=1e-4), (
        "a round that asks for one draft and accepts it gives no information about a second one"
    )


def test_without_observations_every_factor_is_the_guess(own):
    shares = own(survival)([0.0] * 5, [0.0] * 5, 3, 0.5)
    assert shares == pytest.approx([0.5, 0.25, 0.125]), (
        f"no rounds, max_depth 3, guess 0.5: expected 0.5, 0.25, 0.125, got {shares}"
    )


def test_the_guess_at_a_depth_is_the_factor_of_the_depth_before_and_counts_as_two_rounds(own):
    ended, censored = counted([(1, 1)] * 6 + [(1, 0)] * 2, 2, times=1)
    first = (6 + 2 * 0.5) / (8 + 2)
    shares = own(survival)(ended, censored, 2, 0.5)
    assert shares == pytest.approx([first, first * first]), (
        f"ended {ended}, censored {censored}, max_depth 2, guess 0.5: "
        f"expected {[first, first * first]}, got {shares}"
    )


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=60))
def test_survival_never_increases_with_depth(own, rounds):
    possible = [(asked, min(asked, accepted)) for asked, accepted in rounds]
    shares = own(survival)(*counted(possible, 5, times=1), 5, 0.7)
    for share, deeper in zip(shares, shares[1:], strict=False):
        assert 1 + 1e-12 >= share >= deeper - 1e-12 >= -1e-12
