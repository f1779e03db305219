"""How far to draft: as far as pays, and not at all where nothing does.

A round that may draft up to K tokens brings one token and those that are accepted, and costs a pass of the target over all
that were drafted, and the drafting. With

    A_j   the share of such rounds in which the j-th draft is accepted (so all before it are)
    N_j   the share in which a j-th token is drafted: a drafter may stop early, or have no idea
    c(T)  seconds of a pass over T tokens (cost.py)
    f, r  seconds that drafting costs a round, and a token; o, b: what verification costs beyond c, a round and a token

the speed in tokens per second is

    speed(K) = (1 + sum_{j<=K} A_j) / (c(1) + o + f + sum_{j<=K} N_j (c(j+1) - c(j) + r + b)),        speed(0) = 1 / (c(1) + o)

(Leviathan et al. 2023, 2211.17192, section 3.3, with measured instead of assumed shares and costs). The K of the largest
speed is asked for.

**Shares.** A round that asked for 3 tokens says nothing about a fourth. So A is the product over the depths of the share
that went on, among the rounds that could (Kaplan and Meier 1958, for lives that are observed until some day); N likewise. At
a depth that was rarely tried the share is drawn towards that of the depth before, so that a text which begins to repeat
itself is drafted further and further.

**Whether to draft at all** is decided by keeping an account, in units of plain rounds. A round that drafts is credited with the
plain rounds that it replaced and debited with what it cost. While there is credit, drafting goes on; where there is none left,
nothing is drafted until plain decoding has earned an allowance of a few per cent, and then it is tried again. So text that
cannot be drafted costs no more than the allowance, text that can be pays for itself, and the credit is capped, so that a change
is noticed soon. Shares alone would not do: where drafting gains little they are noisy, and one unlucky stretch would end it.

**Time.** A round of a small model takes 30 microseconds, so a round only counts, which takes less than one; the sums above are
evaluated every few rounds.

The law of the text does not depend on any of this: the length is chosen before anything is drawn, and the rules of verify.py
are exact for every length. With shared noise and for greedy decoding not even the text depends on it; with the token rule the
same seed may give another text, since the clock decides how often randomness is asked for.
"""

from collections.abc import Sequence

from minimtp.decode.cost import Costs

PLAN_EVERY = 8  # rounds
MEMORY = 48  # rounds; then what was counted is halved
RESUMED_MEMORY = 0.25  # of what was counted, where drafting begins again
GUESS = 0.7  # of a draft's acceptance, given the one before it, in the place of ...
GUESS_WEIGHT = 2.0  # ... so many rounds
FIRST_LENGTH = 4
FIRST_CREDIT, MOST_CREDIT = 5.0, 16.0  # plain rounds
ALLOWANCE, PROBE_CREDIT = 0.03, 1.0  # of a plain round, earned by each one without drafts, until so much is there
OUTLIER = 4.0  # a round that takes so many times as long as usual tells about the machine, not about decoding


class Line:
    """seconds ~ intercept + slope * n, least squares over observations of which old ones are forgotten.

    Where n hardly varies no slope can be seen; then the seconds are taken to be `proportional` to n, or not to depend on it.
    """

    MEMORY = 32

    def __init__(self, proportional: bool) -> None:
        self._proportional = proportional
        self._n = self._seconds = self._variance = self._covariance = 0.0
        self._weight = 0
        self.slope = self.intercept = 0.0

    def add(self, n: int, seconds: float) -> None:
        usual = self.intercept + self.slope * n
        if self._weight >= 4 and 0.0 < OUTLIER * usual < seconds:
            seconds = OUTLIER * usual
        self._weight = min(self._weight + 1, self.MEMORY)
        rate = 1.0 / self._weight
        kept, across, up = 1.0 - rate, n - self._n, seconds - self._seconds
        self._variance = kept * (self._variance + rate * across * across)
        self._covariance = kept * (self._covariance + rate * across * up)
        self._n += rate * across
        self._seconds += rate * up
        ratio = self._seconds / self._n if self._proportional and self._n > 0.0 else 0.0
        self.slope = max(0.0, (self._covariance + 0.25 * ratio) / (self._variance + 0.25))
        self.intercept = self._seconds - self.slope * self._n


class AdaptiveLength:
    """The `Lengths` of a decoding loop, for one text, or for texts one after another on the same target.

    costs: c(T) of the target. most: the longest draft.
    """

    def __init__(self, costs: Costs, most: int) -> None:
        self._costs, self._most = costs, most
        self._rounds = 0  # that drafted
        # Of those, by length: how many drafted so many, and had so many accepted; whole: all that was asked for.
        self._drafted, self._drafted_whole = [0.0] * (most + 2), [0.0] * (most + 2)
        self._accepted, self._accepted_whole = [0.0] * (most + 2), [0.0] * (most + 2)
        self._draft, self._verify = Line(proportional=True), Line(proportional=False)  # f + r n; o + b n
        self._pass: list[float] = []  # c(1) ..
        self._pass_changes = 0  # the length at which another bucket begins
        self._extra: list[float] = []  # what a round costs by its drafts, in plain rounds, a plain one taken off
        self._plan = min(FIRST_LENGTH, most)
        self._credit = FIRST_CREDIT
        self._left = 0  # rounds without drafts that are still to come
        self._resumed = True  # the next draft is the first after rounds without

    def choose(self, most: int, length: int) -> int:
        if self._left > 0:
            self._left -= 1
            return 0
        if most <= 0:
            return 0
        if length >= self._pass_changes:
            self._pass, self._pass_changes = self._costs.at(length)
            self._make_plan()
        return min(self._plan, most)

    def observe(self, asked: int, drafted: int, accepted: int, seconds_draft: float, seconds_verify: float) -> None:
        if asked == 0:
            if self._left % PLAN_EVERY == 1:
                self._verify.add(0, seconds_verify - self._pass[0])
            return
        self._rounds += 1
        self._drafted[drafted] += 1.0
        self._accepted[accepted] += 1.0
        if drafted == asked:
            self._drafted_whole[asked] += 1.0
            if accepted == asked:
                self._accepted_whole[asked] += 1.0
        if self._rounds % PLAN_EVERY == 0 or self._rounds < PLAN_EVERY:
            self._verify.add(drafted, seconds_verify - self._pass[drafted])
            if not self._resumed:  # that draft may be slow: it catches up with what was committed before it
                self._draft.add(drafted, seconds_draft)
            self._make_plan()
        self._resumed = False
        self._credit = min(self._credit + accepted - self._extra[drafted], MOST_CREDIT)
        if self._credit <= 0.0:
            self._left = int((PROBE_CREDIT - self._credit) / ALLOWANCE)
            self._credit, self._resumed = PROBE_CREDIT, True
            self._forget(RESUMED_MEMORY)

    def _forget(self, kept: float) -> None:
        for counts in (self._drafted, self._drafted_whole, self._accepted, self._accepted_whole):
            counts[:] = [kept * count for count in counts]

    def _make_plan(self) -> None:
        """The length of at least 1 with the highest speed, and what rounds cost."""
        if self._rounds > MEMORY:
            self._rounds //= 2
            self._forget(0.5)
        passes, row = self._pass, self._verify.slope + self._draft.slope
        plain = passes[0] + self._verify.intercept
        accepted = survival(self._accepted, self._accepted_whole, self._most, GUESS)
        reached = survival(self._drafted, self._drafted_whole, self._most, 1.0)
        tokens, seconds, highest = 1.0, plain + self._draft.intercept, 0.0
        for depth in range(1, self._most + 1):
            tokens += accepted[depth - 1]
            seconds += reached[depth - 1] * (passes[depth] - passes[depth - 1] + row)
            if tokens > highest * seconds:
                highest, self._plan = tokens / seconds, depth
        fixed = self._draft.intercept - passes[0]
        self._extra = [(seconds + fixed + row * drafted) / plain for drafted, seconds in enumerate(passes)]


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
