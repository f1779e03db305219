"""The estimates of the draft policy: how many drafts are accepted, and how long a round takes.

**Acceptance.** A round that asked for 3 drafts gives no information about a fourth. So the share of
rounds that reach depth K is estimated as a product of factors, one per depth. The factor of a depth
is the share that reached it among the rounds that could have reached it. This is the estimator of
Kaplan and Meier (1958, "Nonparametric estimation from incomplete observations"). A depth with few
observations takes its factor mostly from the depth before it. So the draft length grows step by
step when a text begins to repeat itself.

**Time.** Other work on the machine can only make a round longer. So the time of a plain round is
the shortest one measured so far. The time of drafting is a least-squares fit, in which the
influence of outliers is limited.

**Forgetting.** Adding rounds multiplies each older sum by 1 - rounds / HORIZON, so a sum covers
about the last HORIZON rounds. After a pause of HORIZON rounds it starts at zero.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from operator import mul

from minimtp.decode.statistics import Statistics

# Number of rounds that the estimates cover, and of rounds in a pause. Short pauses lead to more
# trials. During a long pause the policy misses text that is easy to draft. Measured results, as
# explained in adaptive.py: 64: 1.082, worst 0.970; 128: 1.085, 0.983; 256: 1.080, 0.987.
HORIZON = 128
# Times are limited to this multiple of the expected time, because another process may have used the
# core. 1.5: 1.085, worst 0.983; 3: 1.063, 0.983; no limit: 1.051, 0.982.
OUTLIER = 1.5
GUESS_WEIGHT = 2.0  # a guess counts as this many rounds
# Weight of the previous slope in a fit. If all drafts have the same length, the fit has no slope of
# its own.
RIDGE = 0.05


def keep(rounds: int) -> float:
    """Return the factor for older sums when `rounds` rounds are added."""
    return max(0.0, 1.0 - rounds / HORIZON)


class RoundTimes:
    """Seconds of a plain round (t), and of forward passes over more tokens (c_n)."""

    def __init__(self) -> None:
        self.plain = inf
        self._passes: list[float] = []
        self._extra: list[float] = []  # c_1 - c_1, c_2 - c_1, ...
        self.further: list[float] = []  # c_2 - c_1, c_3 - c_2, ...

    def enter_bucket(self, passes: list[float]) -> None:
        """Set the seconds of passes over 1, 2, ... tokens in the current bucket (cost.py)."""
        if self._passes:
            self.plain += passes[0] - self._passes[0]
        self._passes = passes
        self._extra = [seconds - passes[0] for seconds in passes]
        self.further = [after - before for before, after in pairwise(passes)]

    def observe(self, new: Statistics) -> None:
        """Learn t from any rounds. Drafts can only add time, so all rounds bound t from above."""
        plain = (new.seconds_verify - self._longer(new)) / new.steps
        self.plain = min(self.plain, max(plain, self._passes[0]))

    def longer(self, rows: int) -> float:
        """Return how many seconds more a pass over `rows` tokens takes than a pass over one."""
        return self._extra[rows - 1]

    def _longer(self, new: Statistics) -> float:
        # Longer passes than the measured ones do not occur.
        return sum(map(mul, new.passes_of_length[1:], self._extra))

    def verifying(self, new: Statistics) -> float:
        """Return the seconds of the new rounds without drafting and without applying the rule."""
        return new.steps * self.plain + self._longer(new)


class LinearCost:
    """A discounted least-squares fit of the seconds for drafting n tokens: start + slope * n.

    The first fit sets `start` to 0.
    """

    def __init__(self) -> None:
        self.start = self.slope = 0.0
        self._sums = [0.0] * 5  # rounds, tokens, tokens^2, seconds, tokens * seconds

    def forget(self, rounds: int) -> None:
        kept = keep(rounds)
        self._sums = [kept * old for old in self._sums]

    def add(self, rounds: int, tokens: float, seconds: float, other: float = 0.0) -> None:
        """Add rounds that drafted `tokens` tokens in `seconds`, and took `other` more seconds.

        `seconds` is limited so that drafting and the other work together take at most OUTLIER times
        as long as expected. While nothing is known, drafting takes at most OUTLIER times as long as
        the other work: the first draft may be interrupted, too.
        """
        seconds = max(seconds, 0.0)
        expected = self.seconds(rounds, tokens) or other / OUTLIER
        seconds = min(seconds, OUTLIER * expected + (OUTLIER - 1) * other)
        mean = tokens / rounds
        new = (rounds, tokens, tokens * mean, seconds, seconds * mean)
        self._sums = weight, n, nn, s, ns = [
            old + more for old, more in zip(self._sums, new, strict=True)
        ]
        if n:
            known = self.slope or s / n
            slope = (ns - n * s / weight + RIDGE * nn * known) / (nn - n * n / weight + RIDGE * nn)
            self.slope = min(max(slope, 0.0), s / n)
        self.start = max(0.0, (s - self.slope * n) / weight)

    def seconds(self, rounds: int, tokens: float) -> float:
        return rounds * self.start + tokens * self.slope


class Depths:
    """Counts rounds by the depth at which they ended, for `survival`."""

    def __init__(self, max_depth: int) -> None:
        self._ended = [0.0] * (max_depth + 1)
        self._censored = [0.0] * (max_depth + 1)

    def forget(self, rounds: int) -> None:
        kept = keep(rounds)
        self._ended = [kept * count for count in self._ended]
        self._censored = [kept * count for count in self._censored]

    def add(self, rounds: Sequence[int], asked: int) -> None:
        """Add the number of rounds that ended at each depth. All asked for depth `asked`."""
        for depth, count in enumerate(rounds[: len(self._ended)]):
            self._ended[depth] += count
        self._censored[asked] += rounds[asked]

    def shares(self, max_depth: int, guess: float) -> list[float]:
        """Return the shares of rounds that reach depths 1 .. max_depth: see `survival`."""
        return survival(self._ended, self._censored, max_depth, guess)


def survival(
    ended: Sequence[float], censored: Sequence[float], max_depth: int, guess: float
) -> list[float]:
    """Return the shares of rounds that reach depths 1 .. max_depth: the Kaplan-Meier estimator.

    ended: number of rounds that ended at depth 0, 1, ...; at least `max_depth` numbers. censored:
    how many of them ended because they did not ask for more drafts. guess: the share of rounds that
    continue from depth 0, before any observation. From a later depth it is the estimate for the
    depth before. It counts as GUESS_WEIGHT rounds.
    """
    shares, share = [], 1.0
    continuing = guess  # share of the rounds at a depth that continue to the next one
    reached = sum(ended)
    for depth in range(max_depth):
        at_risk = reached - censored[depth]  # reached this depth and could continue
        reached -= ended[depth]
        continuing = (reached + GUESS_WEIGHT * continuing) / (at_risk + GUESS_WEIGHT)
        share *= continuing
        shares.append(share)
    return shares
