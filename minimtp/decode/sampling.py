"""The law a token is drawn from: temperature, top-k, top-p, and the randomness that does the drawing.

A model's logits z become the *final law* p in three steps, in this order, each ending in something that sums to one:

    1. temperature    p proportional to exp(z / T);   T = 0 is the limit: all the mass on the largest logit
    2. top-k          keep the k likeliest tokens, renormalise
    3. top-p          keep the likeliest tokens until their mass reaches p (Holtzman et al. 2019, 1904.09751),
                      renormalise

Everything that verifies drafts works with this final law. Verifying against the untruncated one is a real bug, and a
large one (total variation 0.3 in our tests), so nothing else in this package turns logits into probabilities.

Choices: a tie always falls to the lowest token id, in the argmax and at the edges of top-k and top-p, so that the law
is a function of the logits alone. T = 0 never divides: it is an argmax. Laws are float64, whatever the logits are:
exactness is proved at 1e-12, and V numbers a token are cheap.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.errors import UserError


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


@dataclass(frozen=True)
class SamplingParams:
    """How logits become probabilities. `Law()` is the model's own law, `Law(temperature=0)` greedy decoding.

    temperature: 0, or at least 1e-6. top_k: how many tokens may be drawn, 0 = all. top_p: the mass they must cover, 1 =
    all.
    Raises UserError for a setting out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (
            _is_number(self.temperature)
            and (self.temperature == 0 or 1e-6 <= self.temperature < math.inf)
        ):
            raise UserError(
                f"temperature must be 0 (greedy) or a number from 1e-6 up, not {self.temperature!r}"
            )
        if not (
            isinstance(self.top_k, int) and not isinstance(self.top_k, bool) and self.top_k >= 0
        ):
            raise UserError(
                f"top-k must be a whole number of at least 0 (0 keeps every token), not {self.top_k!r}"
            )
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise UserError(
                f"top-p must be above 0 and at most 1 (1 keeps every token), not {self.top_p!r}"
            )

    @property
    def greedy(self) -> bool:
        """True where all the mass is on one token whatever the logits are, so that nothing random is needed."""
        return self.temperature == 0 or self.top_k == 1

    def scores(self, logits: object) -> object:
        """(R, V) logits -> (R, V) logarithms of the final law up to a constant a row; -inf = cannot be drawn."""
        xp = array_module(logits)
        if self.greedy:
            scores = xp.full_like(logits, -xp.inf)
            scores[xp.arange(len(logits)), logits.argmax(axis=-1)] = (
                0  # argmax: the first of equals
            )
            return scores
        scores = logits if self.temperature == 1 else logits / self.temperature
        if 0 < self.top_k < scores.shape[-1] or self.top_p < 1:
            scores = xp.where(self._kept(scores), scores, -xp.inf)
        return scores

    def probabilities(self, logits: object) -> object:
        """(R, V) logits of any float type -> (R, V) float64 final law, rows sum to one.

        Raises UserError where a row has no finite maximum: then the model is broken, and any token would be a wrong
        one.
        """
        xp = array_module(logits)
        if self.greedy:
            _maxima(logits)
            return xp.exp(self.scores(logits), dtype=xp.float64)
        return softmax(self.scores(logits))

    def _kept(self, scores: object) -> object:
        """(R, V) bool: which tokens survive top-k and then top-p."""
        xp = array_module(scores)
        order = xp.argsort(
            -scores, axis=-1, kind="stable"
        )  # stable: of equals the lowest id comes first
        survives = xp.ones(scores.shape, bool)  # by rank
        if 0 < self.top_k < scores.shape[-1]:
            survives[:, self.top_k :] = False
        if self.top_p < 1:
            ranked = xp.where(survives, xp.take_along_axis(scores, order, axis=-1), -xp.inf)
            ranked = (
                softmax(ranked) if xp is np else _shares(ranked, ranked[:, :1])
            )  # a device is not waited for
            mass_before = xp.cumsum(ranked, axis=-1) - ranked
            survives &= (
                mass_before < self.top_p
            )  # the token that reaches top_p is kept: its predecessors did not
            survives[:, 0] = True
        rank = xp.argsort(order, axis=-1)  # the inverse permutation: token -> rank
        kept = xp.take_along_axis(survives, rank, axis=-1)
        return kept | xp.isnan(scores)  # which sort as the smallest: whoever draws has to find out


GREEDY = SamplingParams(temperature=0.0)
NOT_FINITE = "the model's output is not a number: its training diverged or its file is damaged, use another checkpoint"


def softmax(scores: object) -> object:
    """(R, V) -> (R, V) float64. Exponentials in the precision that the scores are known to, sums in float64."""
    return _shares(scores, _maxima(scores))


def _shares(scores: object, largest: object) -> object:
    """`softmax` of scores (R, V) whose rows have the maxima `largest` (R, 1)."""
    xp = array_module(scores)
    weights = xp.exp(scores - largest).astype(xp.float64)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _maxima(rows: object) -> object:
    """(R, V) -> (R, 1). Raises UserError for a maximum that is infinite or no number."""
    largest = rows.max(axis=-1, keepdims=True)
    if not math.isfinite(float(largest.sum())):
        raise UserError(NOT_FINITE)
    return largest


class RandomSource(Protocol):
    """All the randomness of sampling and verification: four questions.

    The verification rules ask nothing else, which is what lets a test answer the questions in every possible way and
    add up the exact probability of each outcome.
    """

    def happens(self, probability: float) -> bool:
        """True with this probability (1 or more: always)."""

    def choose(self, law: np.ndarray) -> int:
        """A token of the (V,) float64 law."""

    def draw(self, scores: np.ndarray) -> np.ndarray:
        """(R, V) scores, logarithms of laws up to a constant a row -> (R,) tokens of those laws."""

    def draw_distinct(self, scores: np.ndarray, count: int) -> list[int]:
        """At most `count` draws without replacement from the law of (V,) scores, in order; fewer where it has fewer tokens."""


class SeededRandomSource:
    """`Dice` rolled by a seeded generator: the same seed gives the same answers to the same questions."""

    ROWS = 32  # of noise, made at once

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._random = self._generator.random
        self._noise = np.empty((0, 0))

    def happens(self, probability: float) -> bool:
        return self._random() < probability

    def choose(self, law: np.ndarray) -> int:
        """Inversion: the first token at which the cumulative law passes a uniform number. Never one without mass."""
        cumulative = law.cumsum()
        total = cumulative[-1]
        point = self._random() * total
        if (
            point >= total
        ):  # the product may round up to the total; the last token with mass is meant
            return int(cumulative.searchsorted(total, side="left"))
        return int(cumulative.searchsorted(point, side="right"))

    def draw(self, scores: np.ndarray) -> np.ndarray:
        """The largest of score + Gumbel noise: no exponentials, no normalisation, two passes over a row."""
        rows = len(scores)
        if len(self._noise) < rows:
            self._noise = gumbel_noise(self._generator, (max(rows, self.ROWS), scores.shape[1]))
        noise, self._noise = self._noise[:rows], self._noise[rows:]
        return (scores + noise).argmax(axis=-1)

    def draw_distinct(self, scores: np.ndarray, count: int) -> list[int]:
        """The `count` largest of score + Gumbel noise (Kool et al. 2019, 1903.06059), the largest first."""
        perturbed = scores + gumbel_noise(self._generator, (1, len(scores)))[0]
        tokens = np.argsort(-perturbed)[:count]
        return tokens[perturbed[tokens] > -np.inf].tolist()


def gumbel_noise(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Standard Gumbel noise G, finite: argmax(log p + G) over the tokens is a draw from p (Gumbel 1954)."""
    exponential = generator.standard_exponential(shape)
    np.maximum(
        exponential, np.finfo(np.float64).tiny, out=exponential
    )  # -log(0) would meet a score of -inf
    np.log(exponential, out=exponential)
    return np.negative(exponential, out=exponential)


class GumbelNoise:
    """Gumbel noise G for every (seed, position, token), whoever asks first: argmax(log p + G) is a draw from p.

    Counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the noise of a position is
    computed from its number, not from what was drawn before it. So a token depends on the seed, its position and its
    law only.
    """

    BLOCK = 64  # positions made at once: setting a generator up costs as much as a thousand draws

    def __init__(self, seed: int, vocabulary_size: int) -> None:
        self._seed = seed
        self._shape = (self.BLOCK, vocabulary_size)
        self._blocks: dict[int, np.ndarray] = {}
        self._sent: dict[int, object] = {}

    def rows(self, position: int, count: int) -> np.ndarray:
        """(count, V) float64 noise of the positions from `position` on."""
        block, offset = divmod(position, self.BLOCK)
        rows = self._block(block)[offset : offset + count]
        while len(rows) < count:
            block += 1
            rows = np.concatenate([rows, self._block(block)[: count - len(rows)]])
        return rows

    def rows_on(self, xp: ModuleType, position: int, count: int) -> object:
        """`rows` as an array of `xp`, on a device: a block is sent there once, when its first position is asked for."""
        first, last = position // self.BLOCK, (position + count - 1) // self.BLOCK
        sent = [self._sent_block(xp, block) for block in range(first, last + 1)]
        start = position - first * self.BLOCK
        return (sent[0] if len(sent) == 1 else xp.concatenate(sent))[start : start + count]

    def _sent_block(self, xp: ModuleType, block: int) -> object:
        if block not in self._sent:
            if len(self._sent) > 2:
                self._sent.clear()
            self._sent[block] = xp.asarray(self._block(block))
        return self._sent[block]

    def _block(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            if len(self._blocks) > 2:
                self._blocks.clear()
            generator = np.random.Generator(
                np.random.Philox(key=self._seed, counter=[0, block, 0, 0])
            )
            self._blocks[block] = gumbel_noise(generator, self._shape)
        return self._blocks[block]
