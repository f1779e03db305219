"""A schedule follows the plans of a policy, and asks for a new plan when one has ended."""

from minimtp.decode.policy.plan import DraftPlan, FixedPolicy, Schedule
from minimtp.decode.statistics import Statistics


class RecordingPolicy:
    """Gives the plans it was made with, and records what it was asked."""

    def __init__(self, *plans):
        self.plans, self.asked = list(plans), []

    def choose(self, max_drafts, length, statistics):
        self.asked.append((max_drafts, length))
        return self.plans.pop(0)


def test_a_plan_holds_for_its_rounds_and_pauses_are_plans_without_drafts():
    policy = RecordingPolicy(DraftPlan(3, rounds=2), DraftPlan(0, rounds=3), DraftPlan(1))
    schedule = Schedule(policy, max_drafts=4)
    drafts = [schedule.next_plan(10, length, Statistics()).drafts for length in range(6)]
    assert drafts == [3, 3, 0, 0, 0, 1]
    assert policy.asked == [(4, 0), (4, 2), (4, 5)]


def test_a_plan_is_shortened_to_the_room_that_is_left():
    schedule = Schedule(FixedPolicy(4), max_drafts=4)
    plans = [schedule.next_plan(room, 0, Statistics()) for room in (9, 4, 2, 0)]
    assert [plan.drafts for plan in plans] == [4, 4, 2, 0]
