"""The two ways to draft: chains of the best length, and trees without nodes that take too much
time.

**Chains.** A longer chain may have more tokens accepted, but takes longer. Let

    A_j   the share of rounds that accept a j-th draft (and so all drafts before it)
    N_j   the share of rounds that draft a j-th token: a drafter may stop early or propose nothing
    t     seconds of a plain round
    c_n   seconds of a forward pass over n tokens
    d, r  seconds of drafting and of applying the rule: d per round, r per drafted token

Then a round that drafts up to K tokens has the speed, in tokens per second,

    speed(K) = (1 + sum_{j<=K} A_j) / (t + d + sum_{j<=K} N_j (c_{j+1} - c_j + r))

(Leviathan et al. 2023, 2211.17192, section 3.3, with measured shares and costs). `Chains` chooses
the K with the highest speed. A and N are survival estimates (estimates.py), c is measured
(cost.py), and d and r are fitted to measured rounds.

**Trees.** A tree grows node by node, the most likely node first (tree_growth.py). In a tree of n
nodes, a node takes (c_{n+1} - c_1) / n + r seconds on average. During this time, drafting at the
current speed would emit

    ((c_{n+1} - c_1) / n + r) * speed

tokens. So a node is worth its time if it is accepted with at least this probability.
"""

from abc import ABC, abstractmethod

from minimtp.decode.policy.estimates import Depths, LinearCost, RoundTimes, keep
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.statistics import Statistics

# Guess for the acceptance of a draft whose predecessor was accepted, before any observation. It
# matters most if the first text is short. The figures (see adaptive.py) are for 96 tokens.
# 0.6: 1.041, worst 0.933; 0.8: 1.045, 0.934; 1: 1.041, 0.909.
ACCEPTANCE = 0.8


class DraftMode(ABC):
    """Plans rounds that draft chains, or trees, and measures the time and speed of drafting."""

    def __init__(self, times: RoundTimes) -> None:
        self._times = times
        self._drafting = LinearCost()
        self._tokens = self._seconds = 0.0
        self.tried = False

    @property
    def speed(self) -> float:
        """Tokens per second over about HORIZON rounds of this mode; 0 if there were none."""
        return self._tokens / self._seconds if self._seconds else 0.0

    @abstractmethod
    def plan(self, max_drafts: int) -> tuple[DraftPlan, float]:
        """Return the plan of one round, and its extra time in units of a plain round."""

    def forget(self, rounds: int) -> None:
        """Discount older observations because of `rounds` newer rounds."""
        kept = keep(rounds)
        self._tokens, self._seconds = kept * self._tokens, kept * self._seconds
        self._drafting.forget(rounds)

    def observe(self, new: Statistics, plan: DraftPlan) -> float:
        """Learn from the rounds of `plan`. Return the seconds they take on an idle machine."""
        self.forget(new.steps)
        drafted = new.rows - new.steps
        verifying = self._times.verifying(new)
        if self.tried:  # the first draft is not typical: it is slower than any later one
            drafting = new.seconds_draft + new.seconds_verify - verifying
            self._drafting.add(new.steps, drafted, drafting, verifying)
        self.tried = True
        seconds = verifying + self._drafting.seconds(new.steps, drafted)
        self._tokens += new.emitted
        self._seconds += seconds
        return seconds

    def extra(self, drafts: int) -> float:
        """Return the time that a round with this many drafts takes more than a plain round, in
        units of a plain round.
        """
        seconds = self._times.longer(1 + drafts) + self._drafting.seconds(1, drafts)
        return seconds / self._times.plain


class Chains(DraftMode):
    """Drafts chains of the length with the highest speed."""

    def __init__(self, times: RoundTimes, max_drafts: int) -> None:
        super().__init__(times)
        self._max_drafts = max_drafts
        self._drafted, self._accepted = Depths(max_drafts), Depths(max_drafts)

    def plan(self, max_drafts: int) -> tuple[DraftPlan, float]:
        drafts = min(self._best_length(), max_drafts)
        return DraftPlan(drafts), self.extra(drafts)

    def forget(self, rounds: int) -> None:
        super().forget(rounds)
        self._drafted.forget(rounds)
        self._accepted.forget(rounds)

    def observe(self, new: Statistics, plan: DraftPlan) -> float:
        seconds = super().observe(new, plan)
        self._drafted.add(new.drafts_of_length, plan.drafts)
        self._accepted.add(new.drafts_accepted, plan.drafts)
        return seconds

    def best(self, max_drafts: int, speed: float) -> int:
        """Return the length whose accepted drafts are worth most more than its time; 0 if none is
        worth its time.

        speed: tokens per second that the time is worth.
        """
        gain, best, highest = -speed * self._drafting.start, 0, 0.0
        for depth, (accepted, seconds) in enumerate(self._further(max_drafts), start=1):
            gain += accepted - speed * seconds
            if gain > highest:
                best, highest = depth, gain
        return best

    def _best_length(self) -> int:
        """Return the length with the highest speed, at least 1."""
        tokens, seconds = 1.0, self._times.plain + self._drafting.start
        best, highest = 1, 0.0
        for depth, (accepted, longer) in enumerate(self._further(self._max_drafts), start=1):
            tokens += accepted
            seconds += longer
            if tokens / seconds > highest:
                best, highest = depth, tokens / seconds
        return best

    def _further(self, max_drafts: int) -> list[tuple[float, float]]:
        """Return the accepted drafts and the seconds that each further draft adds to a round: A_j,
        and N_j (c_{j+1} - c_j + r).
        """
        slope, accepted = self._drafting.slope, self._accepted.shares(max_drafts, ACCEPTANCE)
        drafted = self._drafted.shares(max_drafts, 1.0)
        seconds = [
            share * (longer + slope)
            for share, longer in zip(drafted, self._times.further, strict=False)
        ]
        return list(zip(accepted, seconds, strict=True))


class Trees(DraftMode):
    """Drafts trees, without the nodes that are not worth their time."""

    def __init__(self, times: RoundTimes, max_nodes: int) -> None:
        super().__init__(times)
        self._max_nodes = max_nodes

    def plan(self, max_drafts: int) -> tuple[DraftPlan, float]:
        nodes = self._max_nodes
        node_seconds = self._times.longer(1 + nodes) / nodes + self._drafting.slope
        min_acceptance = node_seconds * max(self.speed, 1 / self._times.plain)
        return DraftPlan(max_drafts, 1, nodes, min_acceptance), self.extra(nodes)
