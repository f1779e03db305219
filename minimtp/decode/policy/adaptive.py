"""How far to draft: as far as pays, and not at all where nothing does.

A round that may draft up to K tokens brings one token and those that are accepted, and costs a pass of the target over all
that were drafted, and the drafting. With

    A_j   the share of such rounds in which the j-th draft is accepted (so all before it are)
    N_j   the share in which a j-th token is drafted: a drafter may stop early, or have no idea
    t     seconds of a pass over one token, with its rule
    c_n   how much longer a pass over n tokens takes
    d, r  seconds of asking for a draft and judging it, and for each token of it

the speed in tokens per second is

    speed(K) = (1 + sum_{j<=K} A_j) / (t + d + sum_{j<=K} N_j (c_{j+1} - c_j + r)),        speed(0) = 1 / t

(Leviathan et al. 2023, 2211.17192, section 3.3, with measured instead of assumed shares and costs). The K of the largest
speed is asked for.

**Shares.** A round that asked for 3 tokens says nothing about a fourth. So A is the product over the depths of the share
that went on, among the rounds that could (Kaplan and Meier 1958, for lives that are observed until some day); N likewise. At
a depth that was rarely tried the share is drawn towards that of the depth before, so that a text which begins to repeat
itself is drafted further and further.

**Costs.** c is measured beforehand (cost.py); t is what a pass takes beyond it, best known from rounds without drafts: a few at
the start, and many where nothing pays. d and r are a straight line through what drafting and judging took, short drafts and
long: two laws a row, which the token rule needs and shared noise does not, can cost as much as the pass.

**Whether to draft at all** is decided by keeping an account, in units of plain rounds. A round that drafts is credited with the
plain rounds that it replaced and debited with what it took. While there is credit, drafting goes on; where there is none left,
nothing is drafted for a while, and then it is tried again, with a credit of one and a half per cent of that rest. Rests grow
with each trial in vain, and what a trial cost beyond its credit is rested off, too, up to a limit. So text that cannot be
drafted costs no more than this allowance, text that can be pays for itself, and the credit is capped, so that a change is
noticed soon. Shares alone would not do: where drafting gains little they are noisy, and one unlucky stretch would end it.

**Trees.** What a tree would accept cannot be told from chains, nor the other way round. So the two take turns, and the one that
brought more tokens a second goes on; the other is tried again, after more and more rounds if in vain. A tree's size is
chosen round by round: a node pays if its chance to stand is larger than what it costs, c_n / n + r, times the speed reached.

**Time.** A round of a small model takes 30 microseconds, as long as the sums above. So a plan is made for several rounds, as
many as the credit would last if none of their drafts were accepted; in between, nothing is decided or counted, and a rest is
plain decoding. What became of a plan is read off the statistics that the loop keeps anyway.

The law of the text does not depend on any of this: the length is chosen before anything is drawn, and the rules of verify.py
are exact for every length. With shared noise and for greedy decoding not even the text depends on it; with the token rule the
same seed may give another text, since the clock decides how often randomness is asked for.
"""

from dataclasses import dataclass, field
from math import inf

from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.estimates import Line, survival
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.statistics import Statistics

MEMORY = 48.0  # rounds; then what was counted is halved
RESUMED_MEMORY = 0.25  # of what was counted, where drafting begins again
GUESS = 0.7  # of a draft's acceptance, given the one before it
FIRST_LENGTH = 4
FIRST_CREDIT, MOST_CREDIT, MOST_DEBT = 3.0, 24.0, 4.0  # plain rounds
FIRST_REST, LONGEST_REST = 32, 128  # rounds
ALLOWANCE = 0.015  # credit that a round of rest earns
SHORTEST_PLAN, LONGEST_PLAN = 2, 24  # rounds
REFERENCES, SECOND_REFERENCE, NEXT_REFERENCE = (
    4,
    24,
    192,
)  # rounds without drafts: at the start, and after so many that drafted
FIRST_TURN, LONGEST_TURN = 16, 256  # rounds until chains, or trees, are tried again
FRESHNESS = 0.3  # weight of a plan in a way's speed
FALLS, RISES = (
    0.3,
    0.02,
)  # weight of a round in t, which whatever disturbs a machine only makes longer
OUTLIER = 2.0  # what takes longer than expected by such a factor counts as so long


@dataclass
class Way:
    """Chains or trees: what is known of drafting so."""

    drafting: Line = field(default_factory=Line)
    extra: float = (
        2.0  # by how much a round is longer than a plain one, in plain rounds; at first a guess
    )
    speed: float = 0.0  # tokens a second
    cold: bool = True  # never tried


class AdaptivePolicy:
    """The `Lengths` of a decoding loop, for one text, or for texts one after another on the same target.

    costs: c of the target. most: the longest draft. nodes: the most drafts of a tree, 0 for chains only.
    """

    def __init__(self, costs: Costs, most: int, nodes: int = 0) -> None:
        self._costs, self._most, self._nodes = costs, most, nodes
        # Rounds that drafted: by length, how many drafted so many, and had so many accepted; whole: all that was asked for.
        self._drafted, self._drafted_whole = [0.0] * (most + 2), [0.0] * (most + 2)
        self._accepted, self._accepted_whole = [0.0] * (most + 2), [0.0] * (most + 2)
        self._plain = inf  # t
        self._passes: list[float] = []  # c + a constant, for 1, 2, .. tokens
        self._passes_end = 0  # the length at which another bucket begins
        self._chains, self._trees = Way(), Way()
        self._way = self._chains  # the faster one
        self._turn, self._turn_left = FIRST_TURN, LONGEST_PLAN
        self._credit, self._rest, self._until_reference = FIRST_CREDIT, FIRST_REST, 0
        self._plan = DraftPlan(0, 0)
        self._statistics = self._seen = (
            Statistics()
        )  # of the text; a copy of them as they were when the plan was made

    def choose(self, most: int, length: int, statistics: Statistics) -> DraftPlan:
        done = self._learn()
        if (
            length >= self._passes_end or statistics is not self._statistics
        ):  # a text that begins may be in another bucket
            self._enter_bucket(length)
        left = self._plan.rounds - done
        self._statistics, self._seen = statistics, statistics.copy()
        # Where another text begins, a rest goes on in it.
        self._plan = (
            DraftPlan(0, left) if self._plan.drafts == 0 and left > 0 else self._next_plan(most)
        )
        return self._plan

    def _next_plan(self, most: int) -> DraftPlan:
        if most <= 0:
            return DraftPlan(0, 1)
        if self._credit <= 0.0:
            rest, self._rest = self._rest, min(2 * self._rest, LONGEST_REST)
            self._credit = ALLOWANCE * rest + max(self._credit, -MOST_DEBT)
            self._until_reference = NEXT_REFERENCE
            self._forget(RESUMED_MEMORY)
            return DraftPlan(0, rest)
        if self._until_reference <= 0:
            self._until_reference = (
                SECOND_REFERENCE if self._plain == inf else NEXT_REFERENCE
            )  # the first rounds are cold
            return DraftPlan(0, REFERENCES)
        way, credit = self._way, self._credit
        if self._nodes and self._turn_left <= 0 and (other := self._other(way)).extra <= credit / 4:
            way, credit = other, credit / 2  # a trial may not end drafting
        if way is self._trees:
            extra, plan = (
                way.extra,
                DraftPlan(most, nodes=self._nodes, min_acceptance=self._least_chance()),
            )
        else:
            drafts, extra = self._best_length()
            plan = DraftPlan(min(drafts, most))
        rounds = (
            max(SHORTEST_PLAN, min(int(credit / max(extra, 1e-9)), LONGEST_PLAN))
            if way.drafting
            else 1
        )
        plan = plan._replace(rounds=rounds)
        self._until_reference -= plan.rounds
        self._turn_left -= plan.rounds
        return plan

    def _learn(self) -> int:
        """Take in what became of the last plan; how many rounds it was followed for."""
        new = self._statistics.since(self._seen)
        rounds, passes = new.steps, self._passes
        if rounds == 0:
            return 0
        longer = sum(
            count * (passes[rows - 1] - passes[0])
            for rows, count in enumerate(new.passes_of_length)
            if count
        )
        plain = (new.seconds_verify - longer) / rounds
        if (
            self._plan.drafts == 0 or plain < self._plain
        ):  # with drafts it is also what judging them took
            self._measure_plain(plain, rounds)
        if self._plan.drafts == 0:
            return rounds
        way = self._trees if self._plan.nodes else self._chains
        plain, drafted = self._plain, new.rows - rounds
        drafting = new.seconds_draft + max(0.0, new.seconds_verify - longer - rounds * plain)
        expected = rounds * plain + longer + way.drafting.seconds(rounds, drafted)
        seconds = min(new.seconds_draft + new.seconds_verify, OUTLIER * expected)
        if way.cold:  # the first draft of all is slow in ways that none will be again
            way.cold, seconds = False, expected
        else:
            known = OUTLIER * way.drafting.seconds(rounds, drafted) + plain if way.drafting else inf
            way.drafting.add(rounds, drafted, min(drafting, known))
        cost = seconds / plain
        self._credit = min(self._credit + new.emitted - cost, MOST_CREDIT)
        if self._credit >= FIRST_CREDIT:
            self._rest = FIRST_REST
        if way is self._chains:
            self._count(new)
        self._compare(way, new.emitted / seconds, cost / rounds - 1)
        return rounds

    def _measure_plain(self, seconds: float, rounds: int) -> None:
        """A pass over one token took so long, in so many rounds: less is believed at once, more hesitatingly."""
        if self._plain == inf:
            self._plain = max(seconds, self._passes[0])
        share = FALLS if seconds < self._plain else RISES
        seconds = min(
            max(seconds, self._passes[0]), OUTLIER * self._plain
        )  # the shortest of all passes was measured, too
        self._plain += (1 - (1 - share) ** rounds) * (seconds - self._plain)

    def _count(self, new: Statistics) -> None:
        asked = self._plan.drafts
        for counts, whole, found in (
            (self._drafted, self._drafted_whole, new.drafts_of_length),
            (self._accepted, self._accepted_whole, new.drafts_accepted),
        ):
            for length, count in enumerate(found):
                counts[length] += count
            whole[asked] += found[asked]
        if sum(self._accepted) > MEMORY:
            self._forget(0.5)

    def _compare(self, way: Way, speed: float, extra: float) -> None:
        """Remember how a way did, and go on in the faster one."""
        freshness = FRESHNESS if way.speed else 1.0
        way.speed += freshness * (speed - way.speed)
        way.extra += freshness * (max(extra, 0.0) - way.extra)
        if not self._nodes:
            return
        other = self._other(way)
        if way is not self._way:
            self._turn = (
                FIRST_TURN if way.speed > other.speed else min(2 * self._turn, LONGEST_TURN)
            )
        elif other.speed <= way.speed:
            return
        self._way = max(way, other, key=lambda way: way.speed)
        self._turn_left = self._turn

    def _other(self, way: Way) -> Way:
        return self._trees if way is self._chains else self._chains

    def _enter_bucket(self, length: int) -> None:
        """Passes cost something else from here on."""
        before, (self._passes, self._passes_end) = self._passes, self._costs.at(length)
        if before:
            self._plain += self._passes[0] - before[0]

    def _forget(self, kept: float) -> None:
        for counts in (self._drafted, self._drafted_whole, self._accepted, self._accepted_whole):
            counts[:] = [kept * count for count in counts]

    def _extra(self, rows: int) -> float:
        """By how many plain rounds a round is longer whose pass is over so many tokens."""
        return (self._passes[rows - 1] - self._passes[0]) / self._plain

    def _least_chance(self) -> float:
        """Of a tree's node: what it costs, in tokens at the speed that is reached."""
        if not self._trees.speed:
            return 0.0
        cost = (
            self._passes[self._nodes] - self._passes[0]
        ) / self._nodes + self._trees.drafting.slope
        return cost * self._trees.speed

    def _best_length(self) -> tuple[int, float]:
        """The length of at least 1 with the highest speed, and by how many plain rounds such a round is longer than one."""
        passes, drafting = self._passes, self._chains.drafting
        if not any(self._accepted):
            chosen = min(FIRST_LENGTH, self._most)
            return chosen, self._extra(chosen + 1) + drafting.seconds(1, chosen) / self._plain
        accepted = survival(self._accepted, self._accepted_whole, self._most, GUESS)
        reached = survival(self._drafted, self._drafted_whole, self._most, 1.0)
        tokens, extra = 1.0, drafting.start
        chosen, highest, its_extra = 1, 0.0, 0.0
        for depth in range(1, self._most + 1):
            tokens += accepted[depth - 1]
            extra += reached[depth - 1] * (passes[depth] - passes[depth - 1] + drafting.slope)
            speed = tokens / (self._plain + extra)
            if speed > highest:
                chosen, highest, its_extra = depth, speed, extra
        return chosen, its_extra / self._plain
