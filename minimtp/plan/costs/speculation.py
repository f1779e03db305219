"""Tokens per round, and the best draft length.

Let a_j be the acceptance at depth j: how often the j-th draft is accepted if all before it were. A
round that drafts K tokens emits one token and the accepted drafts, on average

    E(K) = 1 + a_1 + a_1 a_2 + ... + a_1 ... a_K                                    tokens

which is (1 - a^(K+1)) / (1 - a) for a constant a (Leviathan et al. 2023, 2211.17192, equation 1).
With t(T) seconds for a pass over T rows per request and d(K) for drafting, it decodes

    E(K) / (t(K + 1) + d(K))                                      tokens per second and request

The best K depends on the number of requests B, because t(K + 1) grows with B (K + 1) rows once the
pass is compute-bound. The accepted drafts of a real round vary; a plan uses their mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul

from minimtp.model.config import MAX_DRAFTS
from minimtp.plan.costs.cost import PassCost


@dataclass(frozen=True)
class Acceptance:
    """Acceptance by depth: a_1, a_2, ...; the last one holds for all deeper drafts, up to
    `max_drafts`.
    """

    by_depth: tuple[float, ...]
    max_drafts: int = MAX_DRAFTS

    def at(self, depth: int) -> float:
        return self.by_depth[min(depth, len(self.by_depth)) - 1]

    def tokens(self, drafts: int) -> float:
        """Return E(K), the mean tokens of a round that drafts K = `drafts` tokens."""
        return self._tokens[drafts]

    @cached_property
    def _tokens(self) -> list[float]:
        """E(0), E(1), ..."""
        factors = (self.at(depth) for depth in range(1, self.max_drafts + 1))
        return list(accumulate(accumulate(factors, mul), initial=1.0))


@dataclass(frozen=True)
class Round:
    """A round: the draft length, the mean tokens of a request, and the seconds."""

    drafts: int
    tokens: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of one request."""
        return self.tokens / self.seconds


def round_of(
    cost: PassCost, acceptance: Acceptance, batch: int, context: float, drafts: int
) -> Round:
    """Return a round that drafts this many tokens."""
    seconds = cost.pass_seconds(batch, 1 + drafts, context)
    seconds += cost.draft_seconds(batch, drafts, context)
    return Round(drafts, acceptance.tokens(drafts), seconds)


def best_round(
    cost: PassCost, acceptance: Acceptance | None, batch: int, context: float, min_drafts: int = 0
) -> Round:
    """Return the fastest round; without drafts if `acceptance` is None.

    min_drafts: 0 also allows a round without drafts, as adaptive drafting does; 1 always drafts.
    """
    if acceptance is None:
        return round_of(cost, Acceptance((0.0,)), batch, context, 0)
    lengths = range(min_drafts, acceptance.max_drafts + 1)
    rounds = (round_of(cost, acceptance, batch, context, drafts) for drafts in lengths)
    return max(rounds, key=lambda r: r.tokens_per_second)


def constant_acceptance(tokens: float, drafts: int) -> float:
    """Return the constant a with E(drafts) = tokens, by bisection.

    tokens: from 1 to drafts + 1.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if Acceptance((middle,), drafts).tokens(drafts) < tokens:
            low = middle
        else:
            high = middle
    return high


def break_even_acceptance(
    cost: PassCost, batch: int, context: float, max_drafts: int = MAX_DRAFTS
) -> float | None:
    """Return the least constant acceptance at which drafting is as fast as not drafting; None if
    even perfect drafts are slower.
    """

    def gains(a: float) -> bool:
        drafting = best_round(cost, Acceptance((a,), max_drafts), batch, context, min_drafts=1)
        return drafting.tokens_per_second >= plain

    plain = best_round(cost, None, batch, context).tokens_per_second
    if not gains(1.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if gains(middle) else (middle, high)
    return high


def largest_gaining_batch(speedups: Sequence[tuple[int, float]], threshold: float) -> int | None:
    """Return the last batch of the first run of batches whose speed-up is at least `threshold`.

    speedups: (batch, speed-up), by rising batch. None if the first one is below.
    """
    last = None
    for batch, speedup in speedups:
        if speedup < threshold:
            break
        last = batch
    return last
