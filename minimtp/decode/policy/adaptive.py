"""When to draft: the policy that keeps speculative decoding from being slower than plain decoding.

**Problem.** A round of speculative decoding emits one token and the accepted drafts. It takes
longer than a plain round, which emits one token. Whether drafting pays depends on the text, the
drafter and the machine. None of them is known beforehand, the text changes on the way, and the
clock of a shared machine is noisy.

**Idea.** Keep an account in units of plain rounds. Each token that a drafting round emits replaces
one plain round, so it is credited. The time of the round is debited:

    credit <- min(credit + emitted - seconds / t, MAX_CREDIT)        t: seconds of a plain round

Drafting goes on while there is credit. When it is spent, the policy pauses: the next HORIZON rounds
are plain. Then it tries again with TRIAL plain rounds of new credit. A debt is carried over, but at
most TRIAL, so that it costs at most one more pause. This is the cumulative sum test of Page (1954,
"Continuous inspection schemes"), with a cap.

**What it costs.** On text that cannot be drafted, each pause of HORIZON rounds is followed by one
trial. The trial costs TRIAL plain rounds, and up to MIN_ROUNDS drafting rounds more if it overdraws
the account. A text that becomes hard costs at most 2 MAX_CREDIT plain rounds: once for the plan in
which it becomes hard, and once for the credit that is left.

**Which mode.** draft_modes.py decides how long a chain should be, and which nodes of a tree pay.
The acceptance of chains does not predict that of trees. So the policy drafts in the mode that
brings more tokens per second. It tries the other mode every HORIZON rounds, but only with a full
account, and with half of its credit.

**Time.** t is the shortest plain round that was seen. A long stretch is rarely undisturbed, so t is
measured in stretches of MIN_ROUNDS plain rounds: two at the start, and one every HORIZON rounds. If
t were too long, drafting would always seem to pay.

**Plans.** A round of a small model takes 60 microseconds, and making a plan takes half as long. So
a plan covers several rounds: as many as the credit can pay for if no draft is accepted. The policy
learns from the statistics that the decoding loop keeps.

The policy does not change the distribution of the text. It fixes the length before anything is
sampled, and the rules (decode/rules) are exact for every length. Greedy decoding and shared noise
even give the same text under every policy. With the other rules the same seed may give another
text, because the clock decides how often random numbers are drawn.

The constants were chosen by replaying recorded drafts on a simulated clock: 84 combinations of
text, temperature, rule and drafter, three cost models (this CPU, cheap rows as on a GPU, expensive
rows), and four kinds of timing noise. The figures beside them are speed-ups over plain decoding:
the mean of all cases, and the worst case.
"""

from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.draft_modes import Chains, DraftMode, Trees
from minimtp.decode.policy.estimates import HORIZON, RoundTimes
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.statistics import Statistics

# Plain rounds that a trial may lose. It is small, because most trials are in vain.
# 0.5: 1.084, worst 0.983; 1: 1.085, 0.983; 2: 1.083, 0.975; 4: 1.079, 0.965.
TRIAL = 1.0
# Plain rounds that a text may lose when it becomes hard. The mean gains with the credit, since good
# text has bad stretches. 24: 1.082; 48: 1.085; 96: 1.087; the worst case stays 0.983.
MAX_CREDIT = 48.0
# Rounds of the shortest plan. Shorter ones plan too often, longer ones overdraw the account.
# 1: 1.088, worst 0.974; 2: 1.085, 0.983; 4: 1.085, 0.975.
MIN_ROUNDS = 2


class AdaptivePolicy:
    """The `DraftPolicy` of one text, or of several texts one after another on the same target.

    costs: measured costs of the target's passes. max_drafts: of a chain, or along a path of a tree.
    max_nodes: of a tree; 0 allows chains only.
    """

    def __init__(self, costs: Costs, max_drafts: int, max_nodes: int = 0) -> None:
        self._costs, self._bucket_end = costs, 0
        self._times = RoundTimes()
        self._mode: DraftMode = Chains(self._times, max_drafts)
        self._other: DraftMode | None = Trees(self._times, max_nodes) if max_nodes else None
        self._credit, self._until_trial, self._until_plain = TRIAL, 0, 0
        self._plan, self._planned = DraftPlan(0, MIN_ROUNDS), self._mode
        # The text's statistics, and a copy of them from when the plan was made.
        self._statistics = self._seen = Statistics()

    def choose(self, max_drafts: int, length: int, statistics: Statistics) -> DraftPlan:
        """Return the plan of the next rounds: see `DraftPolicy`."""
        followed = self._learn()
        is_new_text = statistics is not self._statistics
        if is_new_text or length >= self._bucket_end:
            passes, self._bucket_end = self._costs.at(length)
            self._times.enter_bucket(passes)
        self._statistics, self._seen = statistics, statistics.copy()
        left = self._plan.rounds - followed
        if self._plan.drafts == 0 and left > 0:  # a pause goes on in the next text
            self._plan = DraftPlan(0, left)
        else:
            self._plan = self._next_plan(max_drafts)
        return self._plan

    def _learn(self) -> int:
        """Learn from the rounds that followed the last plan; return their number."""
        new = self._statistics.since(self._seen)
        if new.steps == 0:
            return 0
        self._times.observe(new)
        if self._plan.drafts:
            cost = self._planned.observe(new, self._plan) / self._times.plain
            self._credit = min(self._credit + new.emitted - cost, MAX_CREDIT)
            if self._other and 0 < self._mode.speed < self._other.speed:
                self._mode, self._other = self._other, self._mode
        return new.steps

    def _next_plan(self, max_drafts: int) -> DraftPlan:
        if max_drafts <= 0:
            return DraftPlan(0, 1)
        if self._credit <= 0:
            self._credit = TRIAL + max(self._credit, -TRIAL)
            self._mode.forget(HORIZON)
            self._until_plain = 0
            return DraftPlan(0, HORIZON)
        if self._until_plain <= 0:
            self._until_plain = HORIZON
            return DraftPlan(0, MIN_ROUNDS)
        mode, credit = self._mode, self._credit
        if self._other and self._until_trial <= 0 and credit == MAX_CREDIT:
            mode, credit = self._other, credit / 2
            self._until_trial = HORIZON if mode.tried else 0
        plan, extra = mode.plan(max_drafts)
        rounds = max(MIN_ROUNDS, int(credit / max(extra, 1.0))) if mode.tried else 1
        self._until_trial -= rounds
        self._until_plain -= rounds
        self._planned = mode
        return plan._replace(rounds=rounds)
