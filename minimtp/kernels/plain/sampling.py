"""Choosing tokens in plain array code."""

from minimtp.backend import Array, array_module


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
