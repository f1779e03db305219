"""The worked examples of lesson 10: the median of ratios, and rounds that asked for few drafts."""

import math

import pytest

from minimtp.backend import numpy as np
from minimtp.bench.interleaved import Speed
from minimtp.decode.policy.estimates import survival
from tests.lessons.worked.reading import by_hand, row

MANY = 1e9  # repeats of the rounds: the guess of `survival` then counts for nothing


def speed(rates):
    return Speed(0, 0, 0, 1, [], [rates], [])


def test_the_median_of_the_ratios_of_three_pairs_of_runs():
    section = by_hand(10)
    a, b = row(section, "A"), row(section, "B")
    assert row(section, "A / B")[:3] == pytest.approx([x / y for x, y in zip(a, b, strict=True)])
    median = speed(a).speedup_over(speed(b))
    assert f"the median is {median:g}" in section
    means = np.mean(a), np.mean(b)
    assert row(section, "means")[:2] == pytest.approx(means, abs=0.5)
    assert row(section, "means")[2] == pytest.approx(means[0] / means[1], abs=0.05)


def test_rounds_that_asked_for_one_draft_do_not_lower_the_share_of_the_second():
    ended = [MANY * n for n in (2 + 1, 6 + 1, 2)]
    censored = [0, MANY * 6, MANY * 2]
    first, second = survival(ended, censored, 2, 0.5)
    section = by_hand(10)
    assert row(section, "reach 1") == pytest.approx([6, 2, 1, 9, 12, first])
    assert math.isclose(second / first, 2 / 3, rel_tol=1e-6) and "2/3\n" in section
    assert f"0.75 · 2/3 = {second:.1f}" in section
    assert row(section, "wrong") == pytest.approx([2, 12, 2 / 12], abs=0.005)
