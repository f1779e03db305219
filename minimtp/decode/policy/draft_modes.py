"""How to draft: the best length of a chain, and the nodes of a tree that pay.

**Chains.** A longer chain may have more tokens accepted, and takes longer. With

    A_j   the share of rounds that accept a j-th draft (and so all before it)
    N_j   the share of rounds that draft a j-th token: a drafter may stop early or propose nothing
    t     seconds of a plain round
    c_n   seconds of a pass over n tokens
    d, r  seconds of drafting and judging: per round, and per drafted token

a round that drafts up to K tokens has the speed, in tokens per second,

    speed(K) = (1 + sum_{j<=K} A_j) / (t + d + sum_{j<=K} N_j (c_{j+1} - c_j + r))

(Leviathan et al. 2023, 2211.17192, section 3.3, with measured shares and costs). `Chains` chooses
the K with the highest speed. A and N are survival estimates (estimates.py), c is measured
(cost.py), and d and r are fitted to the rounds.

**Trees.** A tree grows node by node, the most likely node first (tree_growth.py). One more node
of a tree of n takes (c_{n+1} - c_1) / n + r seconds. In this time, drafting brings tokens at its
present speed. So a node pays if it is accepted with a probability of at least

    ((c_{n+1} - c_1) / n + r) * speed
"""

from minimtp.decode.policy.estimates import Depths, LinearCost, RoundTimes, keep
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.statistics import Statistics

# Of a draft, given the one before it, until it is observed. It matters most in a short first text.
# Over 96 tokens, 0.6: 1.041, worst 0.933; 0.8: 1.045, 0.934; 1: 1.041, 0.909.
ACCEPTANCE = 0.8


class DraftMode:
    """Chains or trees: how this mode drafts next, what it costs, and how fast it was."""

    def __init__(self, times: RoundTimes) -> None:
        self._times, self._drafting = times, LinearCost()
        self._tokens = self._seconds = 0.0
        self.tried = False

    @property
    def speed(self) -> float:
        """Tokens per second in the last HORIZON rounds of this mode; 0 if there are none."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def plan(self, max_drafts: int) -> tuple[DraftPlan, float]:
        """Return the plan of one round, and its extra time over a plain round, in plain rounds."""
        raise NotImplementedError(f"{type(self).__name__} has no plan")

    def forget(self, rounds: int) -> None:
        """Discount what was observed before the next `rounds` rounds."""
        kept = keep(rounds)
        self._tokens, self._seconds = kept * self._tokens, kept * self._seconds
        self._drafting.forget(rounds)

    def observe(self, new: Statistics, plan: DraftPlan) -> float:
        """Learn from rounds that followed `plan`; return their seconds on a quiet machine."""
        self.forget(new.steps)
        drafted, verifying = new.rows - new.steps, self._times.verifying(new)
        if self.tried:  # the first draft is slower than any later one
            drafting = new.seconds_draft + new.seconds_verify - verifying
            self._drafting.add(new.steps, drafted, drafting, verifying)
        self.tried = True
        seconds = verifying + self._drafting.seconds(new.steps, drafted)
        self._tokens += new.emitted
        self._seconds += seconds
        return seconds

    def _extra(self, drafts: int) -> float:
        return (
            self._times.longer(1 + drafts) + self._drafting.seconds(1, drafts)
        ) / self._times.plain


class Chains(DraftMode):
    """Chains of the length with the highest speed."""

    def __init__(self, times: RoundTimes, max_drafts: int) -> None:
        super().__init__(times)
        self._max_drafts = max_drafts
        self._drafted, self._accepted = Depths(max_drafts), Depths(max_drafts)

    def plan(self, max_drafts: int) -> tuple[DraftPlan, float]:
        drafts = min(self._best_length(), max_drafts)
        return DraftPlan(drafts), self._extra(drafts)

    def forget(self, rounds: int) -> None:
        super().forget(rounds)
        self._drafted.forget(rounds)
        self._accepted.forget(rounds)

    def observe(self, new: Statistics, plan: DraftPlan) -> float:
        seconds = super().observe(new, plan)
        self._drafted.add(new.drafts_of_length, plan.drafts)
        self._accepted.add(new.drafts_accepted, plan.drafts)
        return seconds

    def _best_length(self) -> int:
        """Return the length with the highest speed, at least 1."""
        accepted, drafted = self._accepted.shares(ACCEPTANCE), self._drafted.shares(1.0)
        tokens, seconds = 1.0, self._times.plain + self._drafting.start
        best, highest = 1, 0.0
        for depth in range(1, self._max_drafts + 1):
            tokens += accepted[depth - 1]
            longer = self._times.longer(depth + 1) - self._times.longer(depth)
            seconds += drafted[depth - 1] * (longer + self._drafting.slope)
            if tokens / seconds > highest:
                best, highest = depth, tokens / seconds
        return best


class Trees(DraftMode):
    """Trees of the nodes that pay."""

    def __init__(self, times: RoundTimes, max_nodes: int) -> None:
        super().__init__(times)
        self._max_nodes = max_nodes

    def plan(self, max_drafts: int) -> tuple[DraftPlan, float]:
        node_seconds = (
            self._times.longer(1 + self._max_nodes) / self._max_nodes + self._drafting.slope
        )
        min_acceptance = node_seconds * max(self.speed, 1 / self._times.plain)
        return DraftPlan(max_drafts, 1, self._max_nodes, min_acceptance), self._extra(
            self._max_nodes
        )
