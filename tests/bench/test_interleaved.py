"""A speed-up that a machine which drifts, or is disturbed, cannot talk into something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.bench.interleaved import Speed

rates = st.floats(1.0, 1e5)


def speed(own, turns):
    return own(Speed)(0, 0, 0, 1, [], turns, [])


def test_a_speed_up_is_the_median_of_turns_side_by_side(own):
    found = speed(own, [[20, 2], [9, 30]]).speedup_over(speed(own, [[10, 2], [3, 10]]))
    assert found == 2.5, "the ratios are 2, 1, 3 and 3, so half of them lie below 2.5"


@given(machine=st.lists(rates, min_size=1, max_size=12), factor=st.floats(0.1, 10.0))
def test_however_the_machine_drifts_from_pair_to_pair_the_speed_up_is_the_same(
    own, machine, factor
):
    found = speed(own, [[factor * rate for rate in machine]]).speedup_over(speed(own, [machine]))
    assert found == pytest.approx(factor), "what slows both turns of a pair cancels in their ratio"


@given(count=st.integers(3, 12), disturbed=st.data(), factor=st.floats(0.1, 10.0))
def test_disturbances_of_fewer_than_half_of_the_turns_do_not_count(own, count, disturbed, factor):
    mine = [factor * 1000.0] * count
    for place in disturbed.draw(st.sets(st.integers(0, count - 1), max_size=(count - 1) // 2)):
        mine[place] /= 50
    found = speed(own, [mine]).speedup_over(speed(own, [[1000.0] * count]))
    assert found == pytest.approx(factor), "a median does not see by how much the others differ"
