"""What the policies that measure time have in common: when they learn, and when they plan again."""

from abc import ABC, abstractmethod

from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.estimates import RoundTimes
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.statistics import Statistics

# adaptive.py lists the results of other values.
TRIAL = 1.0  # plain rounds that one trial may lose
MAX_CREDIT = 48.0  # plain rounds
MIN_ROUNDS = 2  # of the shortest plan


class Planner(ABC):
    """A `DraftPolicy` for one sequence, or for several sequences in succession on one target.

    costs: measured times of the target's forward passes.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._bucket_end = 0
        self._times = RoundTimes()
        self._until_plain = 0  # rounds until plain rounds are timed again
        self._plan = DraftPlan(0, MIN_ROUNDS)
        # The statistics of the sequence, and a copy of them from when the plan was made.
        self._statistics = self._seen = Statistics()

    def choose(self, max_drafts: int, length: int, statistics: Statistics) -> DraftPlan:
        """Return the plan for the next rounds: see `DraftPolicy`."""
        new = self._statistics.since(self._seen)
        if new.steps:
            self._times.observe(new)
            self._learn(new)
        is_new_sequence = statistics is not self._statistics
        if is_new_sequence or length >= self._bucket_end:
            passes, self._bucket_end = self._costs.at(length)
            self._times.enter_bucket(passes)
        if is_new_sequence:
            self._begin_text()
        self._statistics, self._seen = statistics, statistics.copy()
        left = self._plan.rounds - new.steps
        if self._plan.drafts == 0 and left > 0:  # the next sequence continues a pause
            self._plan = DraftPlan(0, left)
        else:
            self._plan = self._next_plan(max_drafts) if max_drafts > 0 else DraftPlan(0, 1)
        return self._plan

    @abstractmethod
    def _learn(self, new: Statistics) -> None:
        """Learn from the rounds since the last plan."""

    @abstractmethod
    def _begin_text(self) -> None:
        """Limit what the next text may lose."""

    @abstractmethod
    def _next_plan(self, max_drafts: int) -> DraftPlan:
        """Return the next plan, of at most `max_drafts` drafts, at least 1."""
