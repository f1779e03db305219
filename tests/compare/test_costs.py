"""A comparison holds what `minimtp plan` needs: the cost of passes, and what was drafted."""

import pytest

from minimtp.decode.policy.cost import MEASURED
from minimtp.plan.evidence.validation import validate
from minimtp.plan.measured import from_comparison


def test_every_configuration_has_the_seconds_of_a_pass_by_its_rows(finished):
    for configuration in finished[1]["configurations"]:
        seconds = configuration["seconds_per_pass"]
        assert list(seconds) == [str(rows) for rows in MEASURED]
        assert all(0 < value < 1 for value in seconds.values())


@pytest.mark.parametrize("suffix", ["", "_t1"])
def test_counted_drafts_agree_with_acceptance_and_tokens_per_step(finished, suffix):
    for configuration in finished[1]["configurations"]:
        drafted = configuration[f"drafted{suffix}"]
        accepted = configuration[f"acceptance{suffix}"]
        assert drafted == sorted(drafted, reverse=True)
        tokens = 1 + sum(n * (a or 0) for n, a in zip(drafted, accepted, strict=True))
        # The last step may emit fewer tokens than it accepted.
        assert tokens == pytest.approx(configuration[f"tokens_per_step{suffix}"], rel=0.25)
        trials = configuration[f"drafting_trials{suffix}"]
        assert bool(trials) == (configuration["name"] != "standard")
        assert all(drafts >= 0 and seconds >= 0 for drafts, seconds in trials)


def test_a_plan_can_be_made_from_the_folder_and_every_speed_is_predicted(finished):
    found, _, _, lengths = from_comparison(finished[0])
    assert len(found) == 4
    assert lengths["prompt_tokens"] >= 1
    rows = validate([finished[0] / "compare.json"])
    assert len(rows) == 8
    assert all(row.by_c > 0 for row in rows)
