"""Speed-ups are robust against a machine whose speed drifts or is disturbed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.bench.interleaved import Speed

any_rate = st.floats(1.0, 1e5)


def speed(own, rates):
    return own(Speed)(0, 0, 0, 1, [], rates, [])


def test_a_speedup_is_the_median_ratio_of_neighbouring_runs(own):
    found = speed(own, [[20, 2], [9, 30]]).speedup_over(speed(own, [[10, 2], [3, 10]]))
    assert found == 2.5, "the ratios are 2, 1, 3 and 3, so the median is 2.5"


@given(machine=st.lists(any_rate, min_size=1, max_size=12), factor=st.floats(0.1, 10.0))
def test_drift_between_pairs_of_runs_does_not_change_the_speedup(own, machine, factor):
    found = speed(own, [[factor * rate for rate in machine]]).speedup_over(speed(own, [machine]))
    assert found == pytest.approx(factor), "a slowdown of both runs cancels in the ratio"


@given(count=st.integers(3, 12), disturbed=st.data(), factor=st.floats(0.1, 10.0))
def test_disturbing_fewer_than_half_of_the_runs_does_not_change_the_speedup(
    own, count, disturbed, factor
):
    mine = [factor * 1000.0] * count
    for place in disturbed.draw(st.sets(st.integers(0, count - 1), max_size=(count - 1) // 2)):
        mine[place] /= 50
    found = speed(own, [mine]).speedup_over(speed(own, [[1000.0] * count]))
    assert found == pytest.approx(factor), "the median ignores the size of the outliers"
