"""Costs from a comparison: exact on synthetic measurements, and one sentence for damaged files."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.plan.candidates import BOTH, INT4, MTP, STANDARD
from minimtp.plan.measured import (
    MeasuredCost,
    PassTimes,
    acceptance_of,
    from_comparison,
    line_through,
    read_comparison,
)
from minimtp.plan.planning import make_plan
from minimtp.plan.settings import Settings

PASSES = {"1": 1.0, "2": 1.1, "3": 1.2, "4": 1.3, "6": 1.5, "8": 1.7, "12": 2.1, "16": 2.5}


def speeds(suffix, drafts):
    """The results of a configuration that drafts up to 3 tokens, timed by hand.

    A round drafts 1 + 0.8 + 0.5 = 2.3 tokens and accepts 0.9 + 0.6 + 0.2. It takes
    c(3.3) + 0.2 + 0.3 + 0.1 x 2.3 seconds, and 0.1 more for each row at temperature 1.
    """
    row = 0.1 if suffix else 0.0
    plain = 1.2 + row
    return {
        f"tokens_per_second{suffix}": 2.7 / (1.23 + 0.73 + 3.3 * row) if drafts else 1 / plain,
        f"tokens_per_second_without_drafts{suffix}": 1 / plain,
        f"tokens_per_step{suffix}": 2.7 if drafts else 1.0,
        f"acceptance{suffix}": [0.9, 0.75, 0.4] if drafts else [],
        f"drafted{suffix}": [1.0, 0.8, 0.5] if drafts else [],
        f"drafting_trials{suffix}": [[1.0, 0.4], [3.0, 0.6], [5.0, 0.8]] if drafts else [],
    }


def comparison():
    configurations = [
        {"name": name, "weight_bytes": 1000, "cache_bytes": 6400, "seconds_per_pass": PASSES}
        | speeds("", name != "standard")
        | speeds("_t1", name != "standard")
        for name in ("standard", "mtp", "mtp_qat_int4", "mtp_int4_rounded")
    ]
    return {
        "configurations": configurations,
        "sizes": {"prompt": 32, "max_new_tokens": 32},
        "machine": {"processor": "AMD EPYC (family 25, model 17)"},
        "recipe": {
            "vocabulary_size": 257, "context_length": 64, "num_layers": 2, "hidden_size": 64,
            "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 128,
        },
        "preset": "tiny",
    }  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(comparison()))
    return path


def test_the_cache_of_a_token_does_not_depend_on_a_context_that_the_measured_text_did_not_fill(
    tmp_path,
):
    """The cache has room for 256 positions, 2048 on a GPU, of 2 layers, 2 heads, 16 channels."""
    found = comparison()
    for device, context, room in (("cpu", 4096, 256), ("cuda", 4096, 2048), ("cuda", 1024, 1024)):
        found |= {"device": {"name": device}}
        found["recipe"]["context_length"] = context
        for configuration in found["configurations"]:
            configuration["cache_bytes"] = room * 2 * (2 * 2 * 16 * 4)
        (tmp_path / "compare.json").write_text(json.dumps(found))
        candidates, *_ = from_comparison(tmp_path / "compare.json")
        assert [candidate.cache_per_token for candidate in candidates] == [512] * 4


def test_pass_times_are_linear_between_and_beyond_the_measured_rows():
    times = PassTimes({1: 1.0, 2: 3.0, 4: 4.0})
    assert [times(rows) for rows in (0.5, 1, 1.5, 2, 3, 4, 8)] == [1, 1, 2, 3, 3.5, 4, 6]
    assert PassTimes({1: 1.0, 2: 0.5})(2) == 1.0  # noise: a longer pass never takes less
    assert PassTimes({1: 2.0})(9) == 2.0


def test_the_line_through_trials_ignores_an_outlier():
    points = [(n, 0.3 + 0.1 * n) for n in (1.0, 3.0, 5.0, 7.0)]
    assert line_through(points) == pytest.approx((0.3, 0.1))
    assert line_through([*points, (4.0, 50.0)]) == pytest.approx((0.3, 0.1), abs=0.05)
    assert line_through([]) == (0.0, 0.0)
    assert line_through([(2.0, 0.5)]) == (0.5, 0.0)


def test_a_draft_that_is_not_made_counts_as_rejected():
    found = acceptance_of([1.0, 0.8, 0.5], [0.9, 0.75, 0.4])
    assert found.tokens(3) == pytest.approx(1 + 0.9 + 0.6 + 0.2)
    assert acceptance_of([], []) is None
    assert acceptance_of([1.0, 0.5], [None, None]) is None


def test_a_measured_round_costs_what_the_docstring_says():
    cost = MeasuredCost(
        PassTimes({int(k): v for k, v in PASSES.items()}), 0.2, 0.05, 0.3, 0.1, (1.0, 0.8, 0.5)
    )
    seconds = cost.pass_seconds(1, 4, 0) + cost.draft_seconds(1, 3, 0)
    assert seconds == pytest.approx(1.23 + 0.2 + 0.05 * 3.3 + 0.3 + 0.1 * 2.3)
    assert cost.pass_seconds(0, 0, 0, 16) == pytest.approx(2.5)


def test_a_comparison_becomes_four_configurations(file):
    found, machine, title, lengths = from_comparison(file.parent)
    assert [c.name for c in found] == [STANDARD, MTP, INT4, BOTH]
    assert lengths == {"prompt_tokens": 32, "new_tokens": 32}
    assert "tiny" in title and machine.title.startswith("AMD EPYC")
    plan = make_plan(found, machine, Settings(max_batch=1, swept_to=4, max_devices=1, **lengths))
    # One request: a plain pass takes 1 + 0.2 seconds, and drafting 3 is the fastest round.
    assert dict(plan.speedups[MTP])[1] == pytest.approx(2.7 / 1.96 * 1.2, rel=0.01)


def test_a_file_of_an_earlier_version_is_refused_with_what_is_missing(file):
    content = comparison()
    for configuration in content["configurations"]:
        del configuration["seconds_per_pass"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not hold the cost of passes"):
        from_comparison(file)
    content["configurations"] = content["configurations"][:1]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no configuration mtp"):
        read_comparison(file)


def places(value, path=()):
    """Every key and index of a JSON value, as a path."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in items:
        yield (*path, key)
        if isinstance(member, dict | list):
            yield from places(member, (*path, key))


damages = st.sampled_from(
    [None, -1, 0, 1e308, "text", [], {}, [[]], True, float("nan"), float("inf"), "delete"]
)


@given(st.sampled_from(list(places(comparison()))), damages)
@settings(max_examples=150, deadline=None)
def test_a_damaged_comparison_is_planned_or_refused_in_one_sentence(
    tmp_path_factory, place, damage
):
    content = copy.deepcopy(comparison())
    *parents, last = place
    holder = content
    for key in parents:
        holder = holder[key]
    if damage == "delete":
        del holder[last]
    else:
        holder[last] = damage
    path = tmp_path_factory.mktemp("damaged") / "compare.json"
    path.write_text(json.dumps(content))
    try:
        found, machine, _, lengths = from_comparison(path)
        values = Settings(max_batch=2, swept_to=2, max_devices=1, **lengths)
        make_plan(found, machine, values, with_service=False)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) <= 400
