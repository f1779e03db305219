"""The share of rounds that reach a depth, from rounds that were asked for different ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.policy.estimates import survival

MANY = 1e6  # times the same rounds: the guess no longer counts


def counted(rounds, most, times=MANY):
    """rounds: (asked for, accepted) -> what survival takes: all of them, and those that were accepted whole, by depth."""
    ended, whole = [0.0] * (most + 2), [0.0] * (most + 2)
    for asked, accepted in rounds:
        ended[accepted] += times
        whole[asked] += times * (accepted == asked)
    return ended, whole


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_where_every_round_asked_for_all_depths_survival_is_the_plain_share(own, accepted):
    shares = own(survival)(*counted([(5, a) for a in accepted], 5), 5, 0.5)
    expected = [np.mean([a >= depth for a in accepted]) for depth in range(1, 6)]
    assert shares == pytest.approx(expected, abs=1e-4), (
        "of rounds that may all go on, those that did"
    )


def test_rounds_that_asked_for_little_do_not_speak_against_deeper_drafts(own):
    rounds = [(1, 1)] * 2 + [(4, 3), (4, 4)]
    shares = own(survival)(*counted(rounds, 4), 4, 0.5)
    assert shares == pytest.approx([1, 1, 1, 0.5], abs=1e-4), (
        "a round that asked for one and got it says nothing of a second"
    )


def test_where_nothing_was_observed_the_guess_decides(own):
    assert own(survival)([0.0] * 5, [0.0] * 5, 3, 0.5) == pytest.approx([0.5, 0.25, 0.125])


def test_the_guess_at_a_depth_is_the_share_of_the_depth_before_and_counts_as_two_rounds(own):
    ended, whole = counted([(1, 1)] * 6 + [(1, 0)] * 2, 2, times=1)
    first = (6 + 2 * 0.5) / (8 + 2)
    assert own(survival)(ended, whole, 2, 0.5) == pytest.approx([first, first * first])


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=60))
def test_survival_never_rises_with_depth(own, rounds):
    shares = own(survival)(
        *counted([(asked, min(asked, accepted)) for asked, accepted in rounds], 5, times=1), 5, 0.7
    )
    assert all(
        1 + 1e-12 >= a >= b - 1e-12 >= -1e-12 for a, b in zip(shares, shares[1:], strict=False)
    )
