"""How far to draft: as far as pays, and not at all where nothing does.

A round that may draft up to K tokens brings one token and those that are accepted, and costs a pass of the target over all
that were drafted, and the drafting. With

    A_j   the share of such rounds in which the j-th draft is accepted (so all before it are)
    N_j   the share in which a j-th token is drafted: a drafter may stop early, or have no idea
    t_n   seconds of a round that drafted n tokens;  t  of one that was not to draft

the speed in tokens per second is

    speed(K) = (1 + sum_{j<=K} A_j) / (t_0 + sum_{j<=K} N_j (t_j - t_{j-1})),        speed(0) = 1 / t

(Leviathan et al. 2023, 2211.17192, section 3.3, with measured instead of assumed shares and costs). The K of the largest
speed is asked for.

**Shares.** A round that asked for 3 tokens says nothing about a fourth. So A is the product over the depths of the share
that went on, among the rounds that could (Kaplan and Meier 1958, for lives that are observed until some day); N likewise. At
a depth that was rarely tried the share is drawn towards that of the depth before, so that a text which begins to repeat
itself is drafted further and further.

**Costs.** A round's seconds are known where such rounds were seen: the least, allowed to rise slowly, since whatever disturbs a
machine only adds time. From there, a round with other n differs by the pass of the target over as many tokens more, c(n+1)
(cost.py), and by what the drafter takes for a token. A few rounds at the start, and one now and then, draft nothing, to know t.

**Whether to draft at all** is decided by keeping an account, in units of plain rounds. A round that drafts is credited with the
plain rounds that it replaced and debited with what it cost. While there is credit, drafting goes on; where there is none left,
nothing is drafted until plain decoding has earned an allowance of two per cent, and then it is tried again, with a single
token first and twice as many after each draft that was accepted whole. So text that
cannot be drafted costs no more than the allowance, text that can be pays for itself, and the credit is capped, so that a change
is noticed soon. Shares alone would not do: where drafting gains little they are noisy, and one unlucky stretch would end it.

**Time.** A round of a small model takes 30 microseconds, so a round only counts, which takes less than one; the sums above are
evaluated every few rounds.

The law of the text does not depend on any of this: the length is chosen before anything is drawn, and the rules of verify.py
are exact for every length. With shared noise and for greedy decoding not even the text depends on it; with the token rule the
same seed may give another text, since the clock decides how often randomness is asked for.
"""

from collections.abc import Sequence
from math import inf

from minimtp.decode.cost import Costs

PLAN_EVERY = 8  # rounds
MEMORY = 48  # rounds; then what was counted is halved
RESUMED_MEMORY = 0.25  # of what was counted, where drafting begins again
GUESS = 0.7  # of a draft's acceptance, given the one before it, in the place of ...
GUESS_WEIGHT = 2.0  # ... so many rounds
FIRST_LENGTH = 4
FIRST_CREDIT, MOST_CREDIT = 3.0, 16.0  # plain rounds
ALLOWANCE, PROBE_CREDIT = 0.02, 0.5  # of a plain round, earned by each one without drafts, until so much is there
LONGEST_REST = 256  # rounds: a cost that was measured in a bad moment must not end drafting for good
REFERENCES = 2  # rounds without drafts at the start, and one now and then
STRAY = 1.25  # how much more than the round with a draft less suggests a round may be thought to cost
RISE, OUTLIER = 0.02, 2.0  # how fast a least time follows longer ones; what is longer by such a factor counts as so long


class AdaptiveLength:
    """The `Lengths` of a decoding loop, for one text, or for texts one after another on the same target.

    costs: c(T) of the target. most: the longest draft. `listening`: whether the last choice is to be observed.
    """

    def __init__(self, costs: Costs, most: int) -> None:
        self._costs, self._most = costs, most
        self._rounds = 0  # that drafted
        # Of those, by length: how many drafted so many, and had so many accepted; whole: all that was asked for.
        self._drafted, self._drafted_whole = [0.0] * (most + 2), [0.0] * (most + 2)
        self._accepted, self._accepted_whole = [0.0] * (most + 2), [0.0] * (most + 2)
        self._plain, self._seconds = inf, [inf] * (most + 1)  # t; t_n where such rounds were seen
        self._token = inf  # seconds the drafter takes for one
        self._pass: list[float] = []  # c(1) ..
        self._pass_changes = 0  # the length at which another bucket begins
        self._extra: list[float] = []  # (t_n - t) / t
        self._plan = min(FIRST_LENGTH, most)
        self._credit = FIRST_CREDIT
        self._left = 0  # rounds without drafts that are still to come
        self._resumed = False  # every draft since the rest was accepted whole
        self._references = REFERENCES
        self.listening = True

    def choose(self, most: int, length: int) -> int:
        if self._left > 0:
            self._left -= 1
            self.listening = False
            return 0
        if most <= 0:
            self.listening = False
            return 0
        self.listening = True
        if length >= self._pass_changes:
            self._enter_bucket(length)
        if self._references > 0:
            self._references -= 1
            return 0
        return min(self._plan, most)

    def observe(self, asked: int, drafted: int, accepted: int, seconds_draft: float, seconds_verify: float) -> None:
        if asked == 0:
            self._plain = least(self._plain, seconds_draft + seconds_verify)
            return
        self._rounds += 1
        self._drafted[drafted] += 1.0
        self._accepted[accepted] += 1.0
        if drafted == asked:
            self._drafted_whole[asked] += 1.0
            if accepted == asked:
                self._accepted_whole[asked] += 1.0
        seconds = seconds_draft + seconds_verify
        self._seconds[drafted] = least(self._seconds[drafted], seconds)
        self._plain = min(self._plain, seconds)  # no round is shorter than one without drafts
        if drafted:
            self._token = least(self._token, seconds_draft / drafted)
        if self._rounds % PLAN_EVERY == 0 or self._rounds in (1, 3):
            self._make_plan()
        elif accepted == asked and self._resumed:
            self._plan = min(2 * asked, self._most)
        else:
            self._resumed = False
        if self._rounds > 1:  # the first draft of all is slow in ways that none will be again
            self._credit = min(self._credit + accepted - self._extra[drafted], MOST_CREDIT)
        if self._credit <= 0.0:
            self._left = min(int((PROBE_CREDIT - self._credit) / ALLOWANCE), LONGEST_REST)
            self._credit, self._references = PROBE_CREDIT, 1
            self._forget(RESUMED_MEMORY)
            self._plan, self._resumed = 1, True

    def _enter_bucket(self, length: int) -> None:
        """Passes cost something else from here on, and so does every round."""
        before, (self._pass, self._pass_changes) = self._pass, self._costs.at(length)
        if before:
            longer = [new - old for new, old in zip(self._pass, before, strict=True)]
            self._plain += longer[0]
            self._seconds = [seconds + more for seconds, more in zip(self._seconds, longer, strict=True)]

    def _forget(self, kept: float) -> None:
        for counts in (self._drafted, self._drafted_whole, self._accepted, self._accepted_whole):
            counts[:] = [kept * count for count in counts]
        self._seconds = [s if n >= 0.5 else inf for s, n in zip(self._seconds, self._drafted, strict=False)]

    def _make_plan(self) -> None:
        """The length of at least 1 with the highest speed, and what rounds cost."""
        if self._rounds > MEMORY:
            self._rounds //= 2
            self._forget(0.5)
            self._references = 1
        accepted = survival(self._accepted, self._accepted_whole, self._most, GUESS)
        reached = survival(self._drafted, self._drafted_whole, self._most, 1.0)
        expected = self._expected_seconds()
        tokens, seconds, highest = 1.0, expected[0], 0.0
        for depth in range(1, self._most + 1):
            tokens += accepted[depth - 1]
            seconds += reached[depth - 1] * max(0.0, expected[depth] - expected[depth - 1])
            if tokens > highest * seconds:
                highest, self._plan = tokens / seconds, depth
        self._extra = [(seconds - self._plain) / self._plain for seconds in expected]

    def _expected_seconds(self) -> list[float]:
        """t_0 .. t_most: as seen, or as the one before suggests, from which what was seen may not stray far."""
        seconds, passes = self._seconds, self._pass
        token = self._token if self._token < inf else 0.0
        expected = [self._plain]
        for first, known in enumerate(seconds):
            if known < inf:
                expected = [max(self._plain, known - passes[first] + passes[0] - first * token)]
                break
        for drafted in range(1, self._most + 1):
            predicted = expected[-1] + passes[drafted] - passes[drafted - 1] + token
            known = seconds[drafted]
            expected.append(min(known, STRAY * predicted) if known < inf else predicted)
        return expected


def least(known: float, seconds: float) -> float:
    """The least of many measurements of the same thing, which forgets slowly."""
    return seconds if seconds <= known else known + RISE * (min(seconds, OUTLIER * known) - known)


def survival(ended: Sequence[float], whole: Sequence[float], most: int, guess: float) -> list[float]:
    """The shares of rounds that reach depth 1 .. most.

    ended: rounds by the depth they reached; whole: those among them that were not asked to go further. guess: the share that
    goes on from one depth to the next before anything was observed.
    """
    shares, share, going_on = [], 1.0, guess
    alive = sum(ended)
    for depth in range(most):
        could = alive - whole[depth]  # go on from this depth
        alive -= ended[depth]
        going_on = (alive + GUESS_WEIGHT * going_on) / (could + GUESS_WEIGHT)
        share *= going_on
        shares.append(share)
    return shares
