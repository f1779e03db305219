"""Plans for the next rounds, the policies that make them, and the schedule that follows them.

For a small model, making a plan takes a large part of the time of a round. So a policy plans
several rounds at once. A plan with zero drafts is a *pause*: its rounds are plain decoding.
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
    depths: tuple[int, ...] = ()  # maximum depth of each source of a drafter with several


PAUSE = DraftPlan(0)  # one plain round


class DraftPolicy(Protocol):
    """Decides how many tokens to draft (adaptive.py explains one policy)."""

    def choose(self, max_drafts: int, length: int, statistics: Statistics) -> DraftPlan:
        """Plan the next rounds.

        max_drafts: maximum draft depth. length: number of rows in the target's cache. statistics:
        the counts and times of the running generation. Every call for one generation passes the
        same object, so it shows what the last plan achieved. The first call for a generation comes
        after its prefill.
        """


class FixedPolicy:
    """Drafts with the same limits in every round: `drafts` deep, with `nodes` nodes in a tree."""

    def __init__(self, drafts: int, nodes: int = 0) -> None:
        self._plan = DraftPlan(drafts, ALWAYS, nodes)

    def choose(self, max_drafts: int, length: int, statistics: Statistics) -> DraftPlan:
        return self._plan


class Schedule:
    """Counts the rounds of each plan, and asks `policy` for the next plan after the last one.

    max_drafts: maximum draft depth of any plan.
    """

    def __init__(self, policy: DraftPolicy, max_drafts: int) -> None:
        self._policy, self._max_drafts = policy, max_drafts
        self._plan, self._rounds_left = DraftPlan(0, 0), 0

    def next_plan(self, room: int, length: int, statistics: Statistics) -> DraftPlan:
        """Return the plan of the next round, limited to `room` drafts."""
        if self._rounds_left == 0:
            self._plan = self._policy.choose(min(self._max_drafts, room), length, statistics)
            self._rounds_left = self._plan.rounds
        self._rounds_left -= 1
        return self._plan if self._plan.drafts <= room else self._plan._replace(drafts=room)
