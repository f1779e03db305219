"""Measured speed-ups are robust if the speed of the machine drifts or other work disturbs it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.bench import interleaved
from minimtp.bench.interleaved import Run, Speed, Variant, measure_interleaved, tune
from minimtp.decode.sampling.params import GREEDY
from minimtp.decode.statistics import Statistics
from tests.bench.counting_target import PROMPTS, CountingDrafter, CountingTarget

any_rate = st.floats(1.0, 1e5)


def speed(own, rates):
    return own(Speed)(0, 0, 0, 1, [], rates, [])


def test_a_speedup_is_the_median_of_the_ratios_of_all_pairs(own):
    found = speed(own, [[20, 6], [9, 5]]).speedup_over(speed(own, [[10, 2], [9, 10]]))
    assert found == 1.5, f"the ratios are 2, 3, 1 and 0.5: expected their median, 1.5, got {found}"


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


def test_a_text_that_ended_with_its_first_token_has_no_speed_and_is_left_out(own):
    found = speed(own, [[20, 0, 9, 5]]).speedup_over(speed(own, [[10, 4, 3, 0]]))
    assert found == 2.5, f"the ratios of the texts with a speed are 2 and 3, got {found}"
    nothing = speed(own, [[0, 0]]).speedup_over(speed(own, [[10, 10]]))
    assert nothing is not None and math.isnan(nothing), (
        "without any speed, the speed-up is not a number"
    )


def test_every_variant_continues_every_prompt_and_its_steps_are_counted():
    variants = [
        Variant("plain", CountingTarget()),
        Variant("drafting", CountingTarget(), CountingDrafter(), 4),
    ]
    runs = []
    speeds = measure_interleaved(
        variants, PROMPTS, max_new_tokens=11, sampling=GREEDY, repeats=3, progress=runs.append
    )
    assert sum(runs) == 2 * 2 * 3
    assert speeds["plain"].texts == speeds["drafting"].texts == [[*range(1, 14)], [*range(7, 21)]]
    assert speeds["plain"].tokens_per_step == 1.0
    assert speeds["drafting"].tokens_per_step == 5.0
    assert speeds["drafting"].acceptance == [1.0] * 4
    assert np.shape(speeds["drafting"].rates) == (3, 2)


def test_tuning_chooses_the_fastest_draft_depth_and_min_confidence(monkeypatch):
    rates = {(4, 0.0): 10.0, (4, 0.5): 30.0, (2, 0.0): 20.0, (2, 0.5): 5.0}

    def run_once(variant, prompt, max_new_tokens, sampling, seed, policy, *stop_tokens):
        seconds = 1 / rates[variant.draft_depth, variant.min_confidence]
        return Run([], 1, seconds, Statistics(emitted=2, steps=1))

    monkeypatch.setattr(interleaved, "run_once", run_once)
    variant = Variant("drafting", CountingTarget(), CountingDrafter(), 4)
    tune(variant, (4, 2), (0.0, 0.5), PROMPTS, 11, GREEDY)
    assert (variant.draft_depth, variant.min_confidence) == (4, 0.5)
