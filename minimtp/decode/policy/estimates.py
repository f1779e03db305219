"""What the policy of adaptive.py has to know and can only estimate: how far drafts stand, and what drafting costs."""

from collections.abc import Sequence

GUESS_WEIGHT = 2.0  # rounds that a guess counts for
FIRMNESS = (
    0.05  # of a slope that is known already: drafts that are all of one length say nothing about it
)
FADES = 0.8  # what a measurement still counts for when the next one is made


class Line:
    """Seconds of drafting n tokens as d + r n: `start` and `slope`, by least squares; at first d is taken to be 0."""

    def __init__(self) -> None:
        self.start = self.slope = 0.0
        self._sums = [0.0] * 5  # rounds, tokens, tokens^2, seconds, tokens * seconds

    def add(self, rounds: int, tokens: float, seconds: float) -> None:
        """So many rounds drafted so many tokens in all, in so many seconds."""
        mean = tokens / rounds
        new = (rounds, tokens, tokens * mean, seconds, seconds * mean)
        self._sums = weight, n, nn, s, ns = [
            FADES * old + more for old, more in zip(self._sums, new, strict=True)
        ]
        if n:
            known = self.slope or s / n
            slope = (ns - n * s / weight + FIRMNESS * nn * known) / (
                nn - n * n / weight + FIRMNESS * nn
            )
            self.slope = min(max(slope, 0.0), s / n)
        self.start = max(0.0, (s - self.slope * n) / weight)

    def seconds(self, rounds: int, tokens: float) -> float:
        return rounds * self.start + tokens * self.slope

    def __bool__(self) -> bool:
        """Whether anything was measured."""
        return self._sums[0] > 0


def survival(
    ended: Sequence[float], whole: Sequence[float], most: int, guess: float
) -> list[float]:
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
