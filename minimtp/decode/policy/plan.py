"""How the next rounds draft: the plan, the policies that make plans, and the schedule that follows
them.

A round of a small model takes about 30 microseconds, no more than a decision about it. So a policy
plans several rounds at once. A plan of zero drafts is a *pause*: its rounds are plain decoding.
"""

from typing import NamedTuple, Protocol

from minimtp.decode.statistics import Statistics

ALWAYS = 1 << 62  # rounds


class DraftPlan(NamedTuple):
    """How the next `rounds` rounds draft."""

    drafts: int  # maximum draft depth; 0 pauses drafting
    rounds: int = 1
    nodes: int = 0  # maximum number of nodes in the draft tree; 0 drafts a chain
    min_acceptance: float = 0.0  # omit tree nodes whose acceptance estimate is below


PAUSE = DraftPlan(0)


class DraftPolicy(Protocol):
    """Decides how far to draft (see adaptive.py)."""

    def choose(self, max_drafts: int, length: int, statistics: Statistics) -> DraftPlan:
        """Plan the next rounds, at most `max_drafts` deep, with `length` rows in the target's
        cache.

        statistics: those of the running generation, the same object for each of its calls. They
        show what became of the last plan. The first call for a generation comes after its prefill.
        """


class FixedPolicy:
    """Always drafts as far as `drafts` allows."""

    def __init__(self, drafts: int, nodes: int = 0) -> None:
        self._plan = DraftPlan(drafts, ALWAYS, nodes)

    def choose(self, max_drafts: int, length: int, statistics: Statistics) -> DraftPlan:
        return self._plan


class Schedule:
    """The plan of the current round; asks `policy` for a new plan after the last round of each.

    max_drafts: the deepest draft that any plan may ask for.
    """

    def __init__(self, policy: DraftPolicy, max_drafts: int) -> None:
        self._policy, self._max_drafts = policy, max_drafts
        self._plan, self._rounds_left = DraftPlan(0, 0), 0

    def next_plan(self, room: int, length: int, statistics: Statistics) -> DraftPlan:
        """Return the plan of the next round, with at most `room` drafts."""
        if self._rounds_left == 0:
            self._plan = self._policy.choose(min(self._max_drafts, room), length, statistics)
            self._rounds_left = self._plan.rounds
        self._rounds_left -= 1
        return self._plan if self._plan.drafts <= room else self._plan._replace(drafts=room)
