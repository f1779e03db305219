"""Tokens per round against simulation and the closed form; the best draft length."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.plan.costs import speculation
from minimtp.plan.costs.speculation import (
    Acceptance,
    best_round,
    constant_acceptance,
    largest_gaining_batch,
    round_of,
)
from minimtp.plan.measured import MeasuredCost, PassTimes

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


def check(found, expected, case):
    """case: a clause that says what drafting costs."""
    assert found == pytest.approx(expected, abs=1e-6), (
        f"{case}: expected a break-even acceptance of {expected:.6f}, got {found}"
    )


@pytest.fixture
def break_even_acceptance(own):
    return own(speculation.break_even_acceptance)


@pytest.mark.parametrize(("batch", "drafts"), [(1, 7), (3, 7), (1, 2)])
def test_the_break_even_acceptance_separates_gain_from_loss(break_even_acceptance, batch, drafts):
    cost = MeasuredCost(PassTimes({1: 1.0, 8: 2.0}), drafted=(1.0,) * 7)
    least = break_even_acceptance(cost, batch, 0, drafts)
    assert least is not None, "perfect drafts pay here, so there is a break-even acceptance"
    plain = best_round(cost, None, batch, 0).tokens_per_second
    for a, is_faster in ((least - 1e-4, False), (least + 1e-4, True)):
        drafting = best_round(cost, Acceptance((a,), drafts), batch, 0, min_drafts=1)
        assert (drafting.tokens_per_second > plain) == is_faster, (
            f"your break-even acceptance is {least:.6f}, but at {a:.6f} drafting makes "
            f"{drafting.tokens_per_second:.6f} tokens/s, and {plain:.6f} without drafts"
        )


def test_the_break_even_acceptance_depends_on_the_context(break_even_acceptance):
    class Cost:
        def pass_seconds(self, batch, rows, context, prompt_rows=0):
            return 1.0 + context + 0.1 * rows

        def draft_seconds(self, batch, drafts, context):
            return 0.5 * drafts

    # One draft: 1 + a = 1 + 0.6 / (1.1 + context); a longer one needs a higher acceptance.
    for context, expected in ((0.0, 0.6 / 1.1), (4.0, 0.6 / 5.1)):
        found = break_even_acceptance(Cost(), 1, context, 1)
        check(found, expected, f"with a context of {context:g} and one draft")


@pytest.mark.parametrize("drafts", [1, 2, 7])
def test_a_fixed_cost_of_drafting_is_paid_back_at_a_lower_acceptance_by_longer_drafts(
    break_even_acceptance, drafts
):
    cost = MeasuredCost(PassTimes({1: 1.0, 99: 1.0}), round_seconds=0.8, drafted=(1.0,) * 15)
    expected = constant_acceptance(1.8, drafts)  # tokens in the time of 1.8 passes
    found = break_even_acceptance(cost, 1, 0, drafts)
    check(found, expected, f"if drafting costs 0.8 passes, with at most {drafts} drafts")


def test_there_is_no_break_even_acceptance_if_perfect_drafts_are_slower(break_even_acceptance):
    dear = MeasuredCost(PassTimes({1: 1.0, 2: 5.0}), drafted=(1.0,) * 7)
    found = break_even_acceptance(dear, 1, 0, 7)
    assert found is None, f"if even perfect drafts are slower, return None, not {found}"


def test_perfect_drafts_that_are_as_fast_as_none_are_not_slower(break_even_acceptance):
    """A pass over two rows takes twice as long and gives two tokens."""
    found = break_even_acceptance(LINEAR, 1, 0, 1)
    check(found, 1, "if only perfect drafts are as fast as none")


def test_free_rows_need_no_acceptance(break_even_acceptance):
    check(break_even_acceptance(FREE, 1, 0, 7), 0, "if more rows and drafts take no time")


def test_a_gain_ends_where_it_first_falls_below_the_threshold():
    assert largest_gaining_batch([(1, 2.0), (2, 1.1), (4, 0.9), (8, 1.5)], 1.05) == 2
    assert largest_gaining_batch([(1, 1.0)], 1.05) is None
