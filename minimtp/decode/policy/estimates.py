"""What the draft policy estimates: how many drafts are accepted, and how long a round takes.

**Acceptance.** A round that asked for 3 drafts says nothing about a fourth. So the share of rounds
that reach depth K is estimated as a product over the depths: of the rounds that could reach the
next depth, the share that did. This is the estimator of Kaplan and Meier (1958, "Nonparametric
estimation from incomplete observations"). A depth that was rarely tried takes over the share of the
depth before it. So the policy drafts further and further when a text begins to repeat itself.

**Time.** Other work on the machine only makes a round longer. So the time of a plain round is the
shortest one that was seen. The time of drafting is a least-squares fit, and outliers are cut off
before they enter it.

**Memory.** Each sum loses the share rounds / HORIZON when rounds are added, so it remembers about
HORIZON rounds. After a pause of HORIZON rounds it starts anew.
"""

from collections.abc import Sequence
from math import inf

from minimtp.decode.statistics import Statistics

# Rounds that the estimates remember, and that a pause lasts. Shorter pauses make trials dearer,
# longer ones miss good text. 64: 1.082, worst 0.970; 128: 1.085, 0.983; 256: 1.080, 0.987.
HORIZON = 128
# A plan that took longer than expected by this factor counts as that much: another process may have
# taken the core. 1.5: 1.085, worst 0.983; 3: 1.063, 0.983; no limit: 1.051, 0.982.
OUTLIER = 1.5
GUESS_WEIGHT = 2.0  # rounds that a guess counts for
RIDGE = 0.05  # holds on to the slope so far: drafts that all have one length do not determine it


def keep(rounds: int) -> float:
    """Return the share of a discounted sum that remains when `rounds` rounds are added."""
    return max(0.0, 1.0 - rounds / HORIZON)


class RoundTimes:
    """Seconds of a plain round (t), and of passes over more tokens (c_n)."""

    def __init__(self) -> None:
        self.plain = inf
        self._passes: list[float] = []

    def enter_bucket(self, passes: list[float]) -> None:
        """From here on passes over 1, 2, ... tokens take `passes` seconds (cost.py)."""
        if self._passes:
            self.plain += passes[0] - self._passes[0]
        self._passes = passes

    def observe(self, new: Statistics) -> None:
        """Learn t from any rounds: those that judge drafts take longer, so they bound it."""
        plain = (new.seconds_verify - self._longer(new)) / new.steps
        self.plain = min(self.plain, max(plain, self._passes[0]))

    def longer(self, rows: int) -> float:
        """Seconds that a pass over `rows` tokens takes more than a pass over one."""
        return self._passes[rows - 1] - self._passes[0]

    def _longer(self, new: Statistics) -> float:
        counts = enumerate(new.passes_of_length)
        return sum(count * self.longer(rows) for rows, count in counts if count)

    def verifying(self, new: Statistics) -> float:
        """Seconds that the new rounds would take if drafting, and judging the drafts, were free."""
        return new.steps * self.plain + self._longer(new)


class LinearCost:
    """Seconds of drafting n tokens, as start + slope * n: a discounted least-squares fit.

    The first fit sets start to 0.
    """

    def __init__(self) -> None:
        self.start = self.slope = 0.0
        self._sums = [0.0] * 5  # rounds, tokens, tokens^2, seconds, tokens * seconds

    def forget(self, rounds: int) -> None:
        kept = keep(rounds)
        self._sums = [kept * old for old in self._sums]

    def add(self, rounds: int, tokens: float, seconds: float, beside: float = 0.0) -> None:
        """Add rounds that drafted `tokens` tokens in `seconds`, beside other `beside` seconds."""
        seconds = max(seconds, 0.0)
        if self.start or self.slope:
            seconds = min(seconds, OUTLIER * self.seconds(rounds, tokens) + (OUTLIER - 1) * beside)
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
    """Rounds counted by the depth that they reached, some of which were asked to go no further."""

    def __init__(self, max_depth: int) -> None:
        self._ended, self._whole = [0.0] * (max_depth + 1), [0.0] * (max_depth + 1)

    def forget(self, rounds: int) -> None:
        kept = keep(rounds)
        self._ended, self._whole = [kept * n for n in self._ended], [kept * n for n in self._whole]

    def add(self, rounds: Sequence[int], asked: int) -> None:
        """Add rounds by depth, all of which were asked for depth `asked`."""
        for depth, count in enumerate(rounds):
            self._ended[depth] += count
        self._whole[asked] += rounds[asked]

    def shares(self, guess: float) -> list[float]:
        """Return the shares of rounds that reach depths 1, 2, ...: see `survival`."""
        return survival(self._ended, self._whole, len(self._ended) - 1, guess)


def survival(
    ended: Sequence[float], whole: Sequence[float], max_depth: int, guess: float
) -> list[float]:
    """Return the shares of rounds that reach depths 1 .. max_depth.

    ended: rounds by the depth that they reached. whole: those among them that were not asked to go
    further. guess: the share that goes on to the next depth, before any was observed.
    """
    shares, share, going_on = [], 1.0, guess
    alive = sum(ended)
    for depth in range(max_depth):
        could = alive - whole[depth]  # go on from this depth
        alive -= ended[depth]
        going_on = (alive + GUESS_WEIGHT * going_on) / (could + GUESS_WEIGHT)
        share *= going_on
        shares.append(share)
    return shares
