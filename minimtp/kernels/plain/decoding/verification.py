"""Verifying a chain of sampled drafts in plain array code: from logits to probabilities, and then a
rule.

The rules are `token_rule` and `block_rule` of decode/rules/. They read p and q as arrays and ask a
random source for every decision, so that they can be read, and proved exact, line by line. A
compiled `verify_chain` does the same in one call. It never stores probabilities of more than one
draft, and takes all its random numbers at once.
"""

from collections.abc import Callable

from minimtp.backend import array_module, numpy, to_numpy

# Rules for chains that have compiled versions, and their names there. A rule that is not here, such
# as a reader's own, runs as it is written.
COMPILED_RULES: dict[Callable, str] = {}


def verify_chain(rule, logits, temperature, drafts, scores, tokens, rng):
    """Verify K drafts with a rule for chains. Return (accepted, token); the token is -1 if the
    logits or scores that the rule needs are not finite.

    rule(p (K+1, V), q (K, V) or None, drafts, rng) -> (accepted, token), with p and q in float64 on
    the host. p is the softmax of logits (K+1, V) / temperature, q the softmax of scores (K, V').
    scores: None if the drafts were not sampled. tokens: the tokens (V',) of the scores, int64,
    increasing, on the host; None means all. rng: a random source (decode/sampling/). Compiled
    versions need one that has `points`.
    Raises ValueError if q gives a draft probability 0, because then it was not sampled from q.
    """
    with numpy.errstate(over="ignore"):  # an infinite quotient is found below
        p = _softmax(logits if temperature == 1 else logits / temperature)
    q = None if scores is None or len(drafts) == 0 else _softmax(scores)
    if not numpy.isfinite(p).all() or q is not None and not numpy.isfinite(q).all():
        return 0, -1
    if q is not None and tokens is not None:
        some, q = q, numpy.zeros((len(q), p.shape[1]))
        q[:, tokens] = some
    return rule(p, q, drafts, rng)


def _softmax(scores):
    """Return the softmax (R, V), float64 on the host. A row is NaN if its maximum is not finite.

    Exponentials are computed in the precision of the scores, as they are when `sample` samples from
    them, and sums in float64.
    """
    xp = array_module(scores)
    with numpy.errstate(invalid="ignore"):
        weights = xp.exp(scores - scores.max(axis=-1, keepdims=True)).astype(xp.float64)
    return to_numpy(weights / weights.sum(axis=-1, keepdims=True))
