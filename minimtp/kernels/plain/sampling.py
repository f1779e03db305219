"""Choosing tokens in plain array code: the best after noise was added, by their probability, or the
most likely ones for top-k and top-p.
"""

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np


def choose(logits: Array, temperature: float, noise: Array | None = None) -> Array:
    """Return the token with the largest logits / temperature + noise in each row, int64 (R,). Ties
    go to the lowest.

    logits (R, V), temperature > 0, noise (R, V) float64, or None for zeros. The token is -1 if the
    chosen logit, or its quotient, is infinite or NaN, so a caller that reads the tokens need not
    look at the logits.
    """
    xp = array_module(logits)
    scores = logits if temperature == 1 else logits / temperature
    tokens = (scores if noise is None else scores + noise).argmax(axis=-1)
    finite = xp.isfinite(scores[xp.arange(len(tokens)), tokens])
    return xp.where(finite, tokens, -1)


def sample(logits: Array, temperatures: Array, points: Array) -> Array:
    """Sample a token from the softmax of logits / temperature in each row, int64 (R,).

    Inverse transform sampling: the token at which the cumulative probability exceeds the row's
    point. A token with probability 0 is never chosen. Temperature 0 chooses the largest logit; ties
    go to the lowest token.

    logits (R, V), temperatures (R,) of at least 0, points (R,) float64 from 0 up to 1, but not 1.
    The token is -1 if the largest quotient of a row is infinite or NaN.
    """
    xp = array_module(logits)
    best = logits.argmax(axis=-1)
    divisors = xp.where(temperatures == 0, 1, temperatures).astype(logits.dtype)
    with np.errstate(all="ignore"):  # the last line finds what overflows
        scores = logits / divisors[:, None]
        maxima = scores[xp.arange(len(best)), best]
        cumulative = xp.exp(scores - maxima[:, None]).astype(xp.float64).cumsum(axis=-1)
        reached = cumulative <= (points * cumulative[:, -1])[:, None]
    # Rounding can put the point at the very end. Then the last token with a probability is meant.
    reached &= cumulative < cumulative[:, -1:]
    tokens = xp.where(temperatures == 0, best, reached.sum(axis=-1))
    return xp.where(xp.isfinite(maxima), tokens, -1)


def truncate(scores: Array, top_k: int, top_p: float) -> Array:
    """Return scores (R, V) with -inf for all tokens that are not kept.

    Of each row, the top_k highest scores are kept (0, or at least V: all), and of these the highest
    until their probabilities, the softmax of the kept scores, reach top_p together (1: all). Ties
    go to the lowest token, and the highest score is always kept. So are scores that are NaN, so
    that sampling detects them. If all are kept, the result is `scores`.
    """
    if not 0 < top_k < scores.shape[-1] and top_p >= 1:
        return scores
    xp = array_module(scores)
    order = xp.argsort(-scores, axis=-1, kind="stable")  # stable: ties go to the lowest token
    survives = xp.ones(scores.shape, bool)  # by rank
    if 0 < top_k < scores.shape[-1]:
        survives[:, top_k:] = False
    if top_p < 1:
        ranked = xp.where(survives, xp.take_along_axis(scores, order, axis=-1), -xp.inf)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite: whoever samples finds it
            sums = xp.exp(ranked - ranked[:, :1]).astype(xp.float64).cumsum(axis=-1)
        # A token is kept if those before it have not reached top_p.
        survives[:, 1:] &= sums[:, :-1] < top_p * sums[:, -1:]
    rank = xp.argsort(order, axis=-1)  # the inverse permutation: token -> rank
    keeps = xp.take_along_axis(survives, rank, axis=-1)
    return xp.where(keeps | xp.isnan(scores), scores, -xp.inf)
