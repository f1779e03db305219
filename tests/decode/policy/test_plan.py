"""A schedule follows each plan of a policy to its end, and then asks for the next one."""

from minimtp.decode.policy.plan import DraftPlan, FixedPolicy, Schedule
from minimtp.decode.statistics import Statistics


class RecordingPolicy:
    """Returns the given plans in order, and records the arguments of each call."""

    def __init__(self, *plans):
        self.plans, self.asked = list(plans), []

    def choose(self, max_drafts, length, statistics):
        self.asked.append((max_drafts, length))
        return self.plans.pop(0)


def test_a_plan_lasts_for_its_rounds_and_then_the_policy_is_asked_again():
    policy = RecordingPolicy(DraftPlan(3, rounds=2), DraftPlan(0, rounds=3), DraftPlan(1))
    schedule = Schedule(policy, max_drafts=4)
    drafts = [schedule.next_plan(10, length, Statistics()).drafts for length in range(6)]
    assert drafts == [3, 3, 0, 0, 0, 1]
    assert policy.asked == [(4, 0), (4, 2), (4, 5)]


def test_a_plan_is_limited_to_the_remaining_tokens():
    schedule = Schedule(FixedPolicy(4), max_drafts=4)
    plans = [schedule.next_plan(room, 0, Statistics()) for room in (9, 4, 2, 0)]
    assert [plan.drafts for plan in plans] == [4, 4, 2, 0]
