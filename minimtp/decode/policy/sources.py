"""When to draft from which source: the policy of a drafter with several sources.

**Problem.** A drafter that combines lookups and heads (drafters/combined.py) has several sources,
with different acceptance and different costs. Some may pay on a text while others do not. Every
source has to be tried now and then, and each trial may lose time. The sum of the losses must stay
small, on every text, however many sources there are.

**Idea.** Each source has an account of its own in plain rounds, as in adaptive.py:

    credit <- min(credit + emitted - seconds / t, MAX_CREDIT)        t: seconds of a plain round

It drafts while its credit is positive. Otherwise it pauses, and then begins a trial with TRIAL
plain rounds of new credit. A common account, the *budget*, pays for the trials of all sources. It
receives the gains and losses of all rounds, and slowly refills: by BUDGET plain rounds per text and
REFILL in each round. While it is empty, only sources that have earned more than they lost may
draft. It never falls below -BUDGET: during a draft, the processor may do something else for
hundreds of plain rounds, and then no trial would follow for tens of thousands.

**The maximum loss.** A new text begins with a credit of at most TRIAL per source and a budget of at
most BUDGET, whatever was earned on earlier texts. So what a text may lose is BUDGET plus REFILL per
round, TRIAL for each source that paid in the text before and does not pay now, and what the last
plan overdraws. A draft is never longer than its credit covers if all of it is rejected.

**Waiting.** A source that has earned something pauses for WAIT rounds. After each trial that only
lost, it waits twice as long, up to MAX_WAIT. So useless heads cost almost nothing after a few
texts, because the policy outlives the text.

**The depth.** With the shares A and N and the costs c, d and r of draft_modes.py, a source drafts
the K with the highest value

    value(K) = sum_{j<=K} A_j - speed * (d + sum_{j<=K} N_j (c_{j+1} - c_j + r))

in tokens: the accepted drafts without those that the same time would have given at the present
speed. The Kaplan-Meier shares of a lookup and of heads are learned from their own rounds only.

**Plans.** A plan covers PLAN_SECONDS, so that planning takes no noticeable time, or fewer rounds
if the credit covers fewer.

**Constants.** They were chosen by replaying 80 texts of SmolLM2 (code, prose, chat, edits of code)
with simulated heads, and texts without repetitions, with three cost models and timing noise. A
drafted token took 0.1 plain rounds. The comments list, for each tried value, the mean speed-up over
plain decoding, and the speed-up of the worst of 1,320 texts.
"""

from collections.abc import Sequence

from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.draft_modes import Chains
from minimtp.decode.policy.estimates import HORIZON, RoundTimes, keep
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.policy.planner import MAX_CREDIT, MIN_ROUNDS, TRIAL, Planner
from minimtp.decode.statistics import Statistics

# Plain rounds that all trials of a new text may lose. 1: 1.553, worst 0.949; 2: 1.576, 0.971.
BUDGET = 2.0
REFILL = 1 / HORIZON  # plain rounds by which the budget grows in each round
# Rounds before another trial of a source that earned something. With a budget of 2:
# 16: 1.600, worst 0.964; 32: 1.597, 0.974; 128: 1.576, 0.971.
WAIT = 32
MAX_WAIT = 8 * HORIZON
# Rounds that the estimates of a source forget before a new text and before a trial. Drafting as
# long as there is credit, and not only if the estimates say that it pays: 1.616, worst 0.974 with
# 64 and 128; 1.620, 0.976 with 32 and 64.
FORGET_TEXT, FORGET_TRIAL = HORIZON // 4, HORIZON // 2
PLAN_SECONDS = 5e-3
MIN_PLAN_SECONDS = 1e-3  # a shorter plan takes longer to make than it can save
# Plans expect that a source drafts in at least this share of the rounds, because a text may begin
# to repeat itself. 0: 1.616, worst 0.960; 0.25: 1.621, 0.967.
MIN_SHARE = 0.25
# Lookups that find nothing are charged to the budget, up to this share of a plain round each.
MAX_IDLE = 0.1


class Source:
    """The estimates and the account of one source.

    costs_nothing: whether drafting takes no time, so that the first draft need not be measured.
    """

    def __init__(self, times: RoundTimes, max_drafts: int, costs_nothing: bool) -> None:
        self.chains = Chains(times, max_drafts)
        self.chains.tried = costs_nothing
        self.drafts = 0  # the depth that is planned; 0 while the source pauses
        self.rounds_until_trial = 0
        self._max_drafts = max_drafts
        self._credit = TRIAL
        self._earned = 0.0  # since the last trial began
        self._wait = WAIT // 2
        self._planned = self._used = 0.0  # rounds, of about the last HORIZON

    def budget(self, common: float) -> float:
        """Return the plain rounds that it may lose. common: what all trials may lose."""
        return self._credit if self._earned > 0 else min(self._credit, common)

    def observe(self, new: Statistics, plain: float) -> tuple[float, float]:
        """Learn from the rounds with drafts of this source. Return (gain in plain rounds, seconds).

        plain: seconds of a plain round.
        """
        seconds = self.chains.observe(new, DraftPlan(self.drafts))
        gain = new.emitted - seconds / plain
        self._credit = min(self._credit + gain, MAX_CREDIT)
        self._earned += gain
        return gain, seconds

    def count(self, planned: int, used: int) -> None:
        """Learn how often there is something to draft: in `used` of the `planned` rounds."""
        kept = keep(planned)
        self._planned, self._used = kept * self._planned + planned, kept * self._used + used

    def begin_text(self) -> None:
        self._credit = min(self._credit, TRIAL)
        self.chains.forget(FORGET_TEXT)

    def begin_trial(self) -> None:
        self._credit, self._earned = TRIAL, 0.0
        self.chains.forget(FORGET_TRIAL)

    def pause(self) -> None:
        self._wait = WAIT if self._earned > 0 else min(2 * self._wait, MAX_WAIT)
        self.drafts, self.rounds_until_trial = 0, self._wait

    def plan(self, max_drafts: int, shortest: int, budget: float, speed: float) -> int:
        """Plan the best depth, at least 1, that costs at most `budget` plain rounds if all drafts
        of `shortest` rounds are rejected. Return for how many rounds the budget covers it.
        """
        share = max(MIN_SHARE, (1 + self._used) / (1 + self._planned))
        per_round = budget / max(1.0, share * shortest)
        limit = min(max_drafts, self._max_drafts) if self.chains.tried else 1
        while limit > 1 and self.chains.extra(limit) > per_round:
            limit -= 1
        self.drafts = max(1, self.chains.best(limit, speed))
        if not self.chains.tried:
            return 1
        return max(1, int(budget / max(share * self.chains.extra(self.drafts), 1e-9)))


class SourcesPolicy(Planner):
    """A `DraftPolicy` that drafts from several sources.

    costs: measured times of the target's forward passes. depths: the maximum draft depth of each
    source. lookups: number of sources, the first ones, whose drafts take no time.
    """

    def __init__(self, costs: Costs, depths: Sequence[int], lookups: int = 0) -> None:
        super().__init__(costs)
        self._sources = [Source(self._times, d, index < lookups) for index, d in enumerate(depths)]
        self._budget = BUDGET
        self._tokens = self._seconds = 0.0  # of about the last HORIZON rounds

    def _begin_text(self) -> None:
        self._budget = min(self._budget, BUDGET)
        for source in self._sources:
            source.begin_text()

    def _learn(self, new: Statistics) -> None:
        plain, undrafted, seconds, gains = self._times.plain, new.steps, 0.0, 0.0
        if self._plan.drafts:
            idle = new.seconds_draft
            for source, mine in zip(self._sources, new.sources, strict=True):
                if source.drafts:
                    source.count(new.steps, mine.steps)
                if mine.steps:
                    gain, took = source.observe(mine, plain)
                    undrafted -= mine.steps
                    seconds, gains, idle = seconds + took, gains + gain, idle - mine.seconds_draft
            gains -= min(idle / plain, MAX_IDLE * undrafted)
        refilled = min(self._budget + REFILL * new.steps, max(self._budget, BUDGET))
        self._budget = max(-BUDGET, min(refilled + gains, MAX_CREDIT))
        kept = keep(new.steps)
        self._tokens = kept * self._tokens + new.emitted
        self._seconds = kept * self._seconds + seconds + undrafted * plain
        self._until_plain -= new.steps
        for source in self._sources:
            source.rounds_until_trial -= new.steps

    def _next_plan(self, max_drafts: int) -> DraftPlan:
        if self._until_plain <= 0:
            self._until_plain = HORIZON
            return DraftPlan(0, MIN_ROUNDS)
        plain = self._times.plain
        speed = self._tokens / self._seconds if self._seconds else 0.0
        speed = max(speed, 1 / plain)
        shortest = max(1, int(MIN_PLAN_SECONDS / plain))
        rounds = max(MIN_ROUNDS, int(PLAN_SECONDS / plain))
        for source in self._sources:
            if source.drafts == 0 and (source.rounds_until_trial > 0 or self._budget < TRIAL / 2):
                continue
            if source.drafts == 0:
                source.begin_trial()
            budget = source.budget(self._budget)
            if budget > 0:
                rounds = min(rounds, source.plan(max_drafts, shortest, budget, speed))
            else:
                source.pause()
        depths = tuple(source.drafts for source in self._sources)
        if any(depths):
            return DraftPlan(max(depths), max(rounds, shortest), depths=depths)
        waiting = min(source.rounds_until_trial for source in self._sources)
        return DraftPlan(0, waiting if waiting > 0 else WAIT)  # else for the budget
