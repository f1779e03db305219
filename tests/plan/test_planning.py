"""A plan by hand for a toy card, and what must hold for every plan."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.plan.candidates import BOTH, INT4, MTP, STANDARD, Candidate, candidates
from minimtp.plan.costs.sizes import Hardware, hardware, model
from minimtp.plan.costs.speculation import Acceptance
from minimtp.plan.measured import MeasuredCost, PassTimes
from minimtp.plan.planning import ReplicaAtWork, make_plan
from minimtp.plan.report import advise, as_json, speedup_table, table
from minimtp.plan.serving import Request, simulate
from minimtp.plan.settings import Settings

CARD = Hardware(1.0, 1.0, 1.0, dollars_per_hour=3.6)
# A pass takes a second for any number of rows, and prompts are read in one pass.
CONSTANT = MeasuredCost(PassTimes({1: 1.0, 2: 1.0}), drafted=(1.0,) * 15)


def toy(acceptance=None, weights=0.1e9, per_token=1e6, cost=CONSTANT, name="toy", base=None):
    return Candidate(name, weights, per_token, lambda devices: cost, acceptance, base)


def planned(found, **values):
    defaults = {
        "prompt_tokens": 10, "new_tokens": 10, "max_devices": 1, "min_tokens_per_second": 0.0,
        "memory_share": 1.0, "length_spread": 0.0,
    }  # fmt: skip
    return make_plan(found, CARD, Settings(**defaults | values))


def test_a_plan_by_hand():
    # 0.9 GB for caches of 20 MB: 45 requests. A prompt takes 1 s, 10 rounds 10 s of 45 requests.
    row = planned([toy()]).rows[0]
    assert row.point.batch == 45
    per_second = 1 / (1 + 10 / 45)
    assert row.point.requests_per_hour == pytest.approx(3600 * per_second)
    assert row.point.tokens_per_second == pytest.approx(10 * per_second / 45)
    hours = 1e6 / (3600 * per_second * 10)
    assert row.point.dollars_per_million == pytest.approx(3.6 * hours)
    assert row.point.cache_gigabytes == pytest.approx(0.9)


def test_devices_are_counted_for_the_load_at_the_planned_utilisation():
    hourly = 3600 / (1 + 10 / 45)
    load = 10 * hourly
    point = planned([toy()], requests_per_hour=load, utilisation=0.5).rows[0].point
    assert point.needed == 20
    assert point.dollars_per_million == pytest.approx(1e6 * 3.6 * 20 / (load * 10))


def test_a_request_is_never_slower_than_the_limit_if_that_is_possible():
    point = planned([toy()], min_tokens_per_second=0.5).rows[0].point
    assert point.tokens_per_second >= 0.5
    assert point.batch == 10
    row = planned([toy()], min_tokens_per_second=5.0).rows[0]
    assert row.reason == "slow" and row.point.batch == 1


def test_free_rows_multiply_the_speed_by_the_tokens_of_a_pass():
    plain, drafting = toy(), toy(Acceptance((0.5,), 3), name="drafts", base="toy")
    plan = planned([plain, drafting])
    assert dict(plan.speedups["drafts"])[1] == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    gain = next(p for p in plan.break_even if p.kind == "batch")
    assert gain.value == plan.most
    assert "drafting pays for every number of requests" in advise(plan)


def test_what_does_not_fit_is_named_with_its_bytes():
    with pytest.raises(UserError, match="toy needs 2.0 GB for one request, and 1 device can hold"):
        planned([toy(weights=2e9)])
    plan = planned([toy(weights=2e9, name="large"), toy(name="small")])
    assert list(plan.speedups) == ["small"]
    assert plan.rows[0].point is None and plan.rows[1].relative_cost == 1
    assert "does not fit" in table(plan)


def test_a_card_without_a_price_still_has_relative_costs():
    free = Hardware(1.0, 1.0, 1.0)
    plan = make_plan([toy(), toy(name="other")], free, Settings(prompt_tokens=10, new_tokens=10))
    assert [row.relative_cost for row in plan.rows] == [1, 1]


def test_int4_needs_fewer_cards_for_a_70b_and_drafting_rests_when_the_card_is_full():
    card, values = hardware("h100"), Settings(requests_per_hour=5000.0)
    plan = make_plan(candidates(model("70b"), card, values), card, values)
    by_name = {row.candidate.name: row.point for row in plan.rows}
    assert by_name[STANDARD].needed == 4 and by_name[INT4].needed == 1
    full = make_plan(candidates(model("8b"), card, Settings()), card, Settings())
    assert {row.candidate.name: row.point.drafts for row in full.rows}[MTP] == 0


settings_of_plans = st.builds(
    Settings,
    prompt_tokens=st.integers(1, 4000),
    new_tokens=st.integers(1, 2000),
    requests_per_hour=st.none() | st.floats(0.01, 1e8),
    max_batch=st.integers(1, 300),
    min_tokens_per_second=st.floats(0, 500),
    acceptance=st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple),
    bits=st.floats(1, 8),
    max_devices=st.sampled_from((1, 2, 8)),
    utilisation=st.floats(0.05, 1),
)


@given(
    settings_of_plans,
    st.sampled_from(("1b", "8b", "70b")),
    st.sampled_from(("laptop", "rtx4090", "h200")),
)
@settings(max_examples=25, deadline=None)
def test_every_plan_is_consistent(values, size, card):
    device = hardware(card)
    try:
        plan = make_plan(candidates(model(size), device, values), device, values, False)
    except UserError as error:
        assert "no configuration fits" in str(error)
        return
    usable = values.memory_share * device.memory_gigabytes
    for row in plan.rows:
        if row.point is None:
            continue
        point = row.point
        assert 1 <= point.batch <= values.max_batch
        held = row.candidate.weights / 1e9 + point.cache_gigabytes
        assert held <= usable * point.devices * (1 + 1e-9)
        assert point.devices in (1, 2, 4, 8) and point.devices <= values.max_devices
        assert point.needed % point.devices == 0
        if values.requests_per_hour:
            able = point.requests_per_hour * point.needed * values.utilisation
            assert able >= values.requests_per_hour * (1 - 1e-9)
    for name, pairs in plan.speedups.items():
        assert all(speedup > 0 for _, speedup in pairs)
        if name in (MTP, BOTH):  # drafting may rest, so it never loses
            plain = dict(plan.speedups[STANDARD if name == MTP else INT4])
            assert all(speedup >= plain[batch] * (1 - 1e-9) for batch, speedup in pairs)
    assert advise(plan).endswith(".") and speedup_table(plan)
    assert as_json(plan, "", {})["configurations"]


@given(st.floats(1, 1e7), st.floats(1, 100))
@settings(max_examples=20, deadline=None)
def test_a_higher_load_never_needs_fewer_devices(load, factor):
    card = hardware("h100")

    def needed(hourly):
        values = Settings(requests_per_hour=hourly, max_batch=64, max_devices=2)
        plan = make_plan(candidates(model("8b"), card, values), card, values, False)
        return [row.point.needed for row in plan.rows]

    assert all(a <= b for a, b in zip(needed(load), needed(load * factor), strict=True))


def test_a_simulated_replica_under_full_load_serves_what_the_equation_says():
    """The equation adds the time of prompts; in the simulation they share passes with decoding."""
    values = Settings(max_batch=16, max_devices=1, length_spread=0.0)
    card = hardware("h100")
    full = replace(values, min_batch=16)
    for row in make_plan(candidates(model("8b"), card, full), card, full, False).rows:
        many = [Request(0.0, values.prompt_tokens, values.new_tokens)] * 640
        served = simulate(many, ReplicaAtWork(row, card, values))
        predicted = row.point.requests_per_hour * values.new_tokens / 3600
        assert served.tokens_per_second == pytest.approx(predicted, rel=0.15)
