"""Tokens per round against simulation and the closed form; the best draft length."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.plan.measured import MeasuredCost, PassTimes
from minimtp.plan.speculation import (
    Acceptance,
    best_round,
    break_even_acceptance,
    constant_acceptance,
    largest_gaining_batch,
    round_of,
)

FREE = MeasuredCost(PassTimes({1: 1.0, 100: 1.0}), drafted=(1.0,) * 15)  # any number of rows
LINEAR = MeasuredCost(PassTimes({1: 1.0, 2: 2.0}), drafted=(1.0,) * 15)  # a row is a pass


@given(a=st.floats(0, 0.99), drafts=st.integers(0, 15))
def test_a_constant_acceptance_gives_the_closed_form(a, drafts):
    closed = (1 - a ** (drafts + 1)) / (1 - a)
    assert Acceptance((a,)).tokens(drafts) == pytest.approx(closed)


def test_tokens_by_depth_agree_with_drafting_and_counting():
    rng, shares, rounds = random.Random(1), (0.9, 0.6, 0.3), 40_000
    total = 0
    for _ in range(rounds):
        total += 1
        for share in shares:
            if rng.random() >= share:
                break
            total += 1
    assert Acceptance(shares).tokens(3) == pytest.approx(total / rounds, abs=0.02)


def test_the_last_acceptance_holds_for_deeper_drafts():
    assert Acceptance((0.5, 1.0)).tokens(4) == pytest.approx(1 + 4 * 0.5)


@given(a=st.floats(0, 1), drafts=st.integers(1, 15))
def test_the_acceptance_is_found_again_from_the_tokens(a, drafts):
    tokens = Acceptance((a,)).tokens(drafts)
    assert Acceptance((constant_acceptance(tokens, drafts),)).tokens(drafts) == pytest.approx(
        tokens
    )


def test_with_free_rows_the_longest_draft_is_best_and_with_linear_rows_none():
    accepted = Acceptance((0.7,), 9)
    assert best_round(FREE, accepted, 1, 0).drafts == 9
    assert best_round(LINEAR, accepted, 1, 0).drafts == 0
    assert best_round(LINEAR, accepted, 1, 0, min_drafts=1).drafts == 1
    assert best_round(FREE, None, 1, 0).tokens_per_second == 1


@given(
    times=st.lists(st.floats(0.01, 1), min_size=2, max_size=16),
    a=st.floats(0, 1),
    batch=st.integers(1, 9),
)
def test_the_best_round_is_at_least_as_fast_as_any_length(times, a, batch):
    cost = MeasuredCost(PassTimes(dict(enumerate(times, 1))), 0.01, 0.01, 0.02, 0.01, (1.0,) * 15)
    accepted = Acceptance((a,), 8)
    best = best_round(cost, accepted, batch, 0).tokens_per_second
    for drafts in range(9):
        assert best >= round_of(cost, accepted, batch, 0, drafts).tokens_per_second


def test_the_break_even_acceptance_separates_gain_from_loss():
    cost = MeasuredCost(PassTimes({1: 1.0, 8: 2.0}), drafted=(1.0,) * 7)
    least = break_even_acceptance(cost, 1, 0, 7)
    for a, is_faster in ((least - 0.01, False), (least + 0.01, True)):
        drafting = best_round(cost, Acceptance((a,), 7), 1, 0, min_drafts=1)
        assert (drafting.tokens_per_second > 1) == is_faster
    dear = MeasuredCost(PassTimes({1: 1.0, 2: 5.0}), drafted=(1.0,) * 7)
    assert break_even_acceptance(dear, 1, 0, 7) is None
    assert break_even_acceptance(FREE, 1, 0, 7) == pytest.approx(0, abs=1e-9)


def test_a_gain_ends_where_it_first_falls_below_the_threshold():
    assert largest_gaining_batch([(1, 2.0), (2, 1.1), (4, 0.9), (8, 1.5)], 1.05) == 2
    assert largest_gaining_batch([(1, 1.0)], 1.05) is None
