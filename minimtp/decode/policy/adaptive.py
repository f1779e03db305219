"""When to draft: the policy that keeps speculative decoding from being slower than plain decoding.

**Problem.** A round of speculative decoding emits one token and the accepted drafts. It takes
longer than a plain round, which emits one token. Whether drafting is faster depends on the text,
the drafter and the machine. None of them is known beforehand. The text changes during generation,
and time measurements on a shared machine are noisy.

**Idea.** Keep an account in units of plain rounds. Each token that a drafting round emits replaces
one plain round, so each adds one unit of credit. The time of the round is subtracted:

    credit <- min(credit + emitted - seconds / t, MAX_CREDIT)        t: seconds of a plain round

The policy drafts while the credit is positive. Then it pauses: the next HORIZON rounds are plain.
After the pause it tries again with TRIAL plain rounds of new credit. A negative credit is carried
over, limited to -TRIAL, so it causes at most one more pause. This is the cumulative sum test of
Page (1954, "Continuous inspection schemes"), with a cap.

**The maximum loss.** On text whose drafts are always rejected, each pause of HORIZON rounds is
followed by one trial. The trial loses TRIAL plain rounds, and up to MIN_ROUNDS drafting rounds more
if it overdraws the account. If a text becomes hard to draft, the loss is at most 2 MAX_CREDIT plain
rounds: one MAX_CREDIT in the current plan, and the remaining credit later. A new text begins with
a credit of at most TEXT_CREDIT.

**Chains or trees.** draft_modes.py chooses the length of a chain and the nodes of a tree. The
acceptance of chains does not predict the acceptance of trees, so both are tried. The policy drafts
in the mode with more tokens per second. It tries the other mode every HORIZON rounds, but only when
the credit is MAX_CREDIT, and it risks half of the credit.

**Time.** t is the shortest plain round measured so far. Other work on the machine disturbs most
long measurements, so t is measured over MIN_ROUNDS plain rounds: twice at the start, and once every
HORIZON rounds. If t were too long, drafting would always seem faster than plain decoding.

**Plans.** A round of a small model takes 60 microseconds, and making a plan takes half as long. So
a plan covers several rounds: as many as the credit covers if no draft is accepted. The policy
learns from the statistics of the decoding loop.

**Exactness.** The policy does not change the distribution of the text. It fixes the draft length
before anything is sampled, and the rules (decode/rules) are exact for every length. Greedy decoding
and shared noise even generate the same text under every policy. With the other rules the same seed
may give another text, because the measured times decide how many random numbers are drawn.

**Constants.** They were chosen by replaying recorded drafts on a simulated clock: 84 combinations
of text, temperature, rule and drafter, three cost models (this CPU, cheap rows as on a GPU,
expensive rows), and four kinds of timing noise. For each tried value, the mean speed-up over plain
decoding in all cases, and the speed-up in the worst case:

    TRIAL        small, because most trials fail
                 0.5: 1.084, worst 0.983; 1: 1.085, 0.983; 2: 1.083, 0.975; 4: 1.079, 0.965
    MAX_CREDIT   a higher one improves the mean, because even text that is easy to draft has hard
                 passages; 24: 1.082; 48: 1.085; 96: 1.087; the worst case stays 0.983
    MIN_ROUNDS   with 1, it plans too often; with 4, plans overdraw the account
                 1: 1.088, worst 0.974; 2: 1.085, 0.983; 4: 1.085, 0.975
"""

from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.draft_modes import Chains, DraftMode, Trees
from minimtp.decode.policy.estimates import HORIZON
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.policy.planner import MAX_CREDIT, MIN_ROUNDS, TRIAL, Planner
from minimtp.decode.statistics import Statistics

# Maximum credit at the beginning of a text, because a text that is hard to draft must not lose what
# others have earned. With SmolLM2 (sources.py), n-grams: 1: 1.241, worst 0.985; 3: 1.372, 0.973;
# 6: 1.402, 0.952; no limit: 1.419, 0.862.
TEXT_CREDIT = 3.0


class AdaptivePolicy(Planner):
    """A `DraftPolicy` that drafts chains or trees.

    costs: measured times of the target's forward passes. max_drafts: maximum length of a chain.
    max_nodes: maximum number of nodes in a draft tree; 0 allows chains only.
    """

    def __init__(self, costs: Costs, max_drafts: int, max_nodes: int = 0) -> None:
        super().__init__(costs)
        self._mode: DraftMode = Chains(self._times, max_drafts)
        self._other: DraftMode | None = Trees(self._times, max_nodes) if max_nodes else None
        self._credit = TRIAL
        self._until_trial = 0  # rounds until the other mode is tried again
        self._planned = self._mode  # the mode that made the last drafting plan

    def _begin_text(self) -> None:
        self._credit = min(self._credit, TEXT_CREDIT)

    def _learn(self, new: Statistics) -> None:
        if self._plan.drafts:
            cost = self._planned.observe(new, self._plan) / self._times.plain
            self._credit = min(self._credit + new.emitted - cost, MAX_CREDIT)
            if self._other and 0 < self._mode.speed < self._other.speed:
                self._mode, self._other = self._other, self._mode

    def _next_plan(self, max_drafts: int) -> DraftPlan:
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
