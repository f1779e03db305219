"""A chain of drafts from any model that predicts one token after another, in plain array code.

`draft_chain` is the loop: predict, stop if the draft has become unlikely, choose, and go on from
the chosen token. `argmax_chain` and `sampled_chain` choose as the verification rules do
(decode/rules/). A head with a draft vocabulary has logits for V' of the V tokens.
"""

from minimtp.backend import array_module, numpy, to_numpy
from minimtp.kernels.plain.sampling import sample, truncate


def max_probability(logits):
    """Return the maximum of the softmax of logits (1, V), as an array of no dimensions."""
    return 1 / array_module(logits).exp(logits - logits.max()).sum()


def scores_of(logits, temperature, top_k, top_p):
    """Return logits (R, V) / temperature, with -inf for the tokens that top-k and top-p exclude
    (`truncate`).
    """
    return truncate(logits if temperature == 1 else logits / temperature, top_k, top_p)


def noise_of(tokens, noise):
    """noise (R, V) of all tokens -> the noise (R, V') of these tokens (V',); None means all."""
    return noise if tokens is None else noise[:, tokens]


def tokens_at(tokens, indices):
    """Return the tokens of these indices of the logits. tokens (V',), or None: the indices."""
    return indices if tokens is None else tokens[indices]


def draft_chain(follow, choose, token, depth, min_confidence):
    """Draft up to `depth` tokens, one after the other. Return a list of arrays (1,).

    token: array (R,) of the tokens before the draft that `follow` has not seen, one or more.
    follow(tokens (R,)) -> logits (1, V) of the token after them, and their maximum probability.
    choose(logits, index) -> the next token (1,), which `follow` gets next. The draft ends when the
    product of its maximum probabilities falls below `min_confidence`; 0: never.
    """
    tokens, confidence = [], 1.0
    for index in range(depth):
        logits, probability = follow(token)
        if min_confidence:  # reading the probability waits for the GPU
            confidence *= float(probability)
            if confidence < min_confidence:
                break
        token = choose(logits, index)
        tokens.append(token)
    return tokens


def argmax_chain(follow, state, token, depth, min_confidence, noise, shaping, tokens=None):
    """Return up to `depth` drafts, int64 (K,) on the host: argmax(logits), or with noise (depth, V)
    float64 argmax(scores + noise), with the scores of `scores_of`. Ties go to the lowest id.

    state: an array on the device of the computation. token: the id of the token before the draft.
    follow: as for `draft_chain`. shaping: temperature, top_k and top_p. tokens: the tokens (V',) of
    the logits; None means all.
    """
    xp = array_module(state)
    noise = None if noise is None else noise_of(tokens, xp.asarray(noise))

    def choose(logits, index):
        scores = logits if noise is None else scores_of(logits, *shaping) + noise[index]
        return tokens_at(tokens, scores.argmax(axis=-1))

    drafts = draft_chain(follow, choose, xp.full(1, token, "int64"), depth, min_confidence)
    return numpy.array([int(draft[0]) for draft in drafts], numpy.int64)


def sampled_chain(follow, state, token, depth, min_confidence, points, shaping, tokens=None):
    """Return up to `depth` sampled drafts, int64 (K,), and their scores (K, V'), both on the host.

    Each is sampled from the softmax of its scores as in `sample`, with one of the points (depth,).
    The other arguments are those of `argmax_chain`.
    """
    xp, rows = array_module(state), []
    points = xp.asarray(points)

    def choose(logits, index):
        rows.append(scores_of(logits, *shaping))
        one = xp.ones(1, logits.dtype)
        # Of -1, logits that are not finite, any token: the scores fail in verification.
        chosen = xp.maximum(sample(rows[-1], one, points[index : index + 1]), 0)
        return tokens_at(tokens, chosen)

    drafts = draft_chain(follow, choose, xp.full(1, token, "int64"), depth, min_confidence)
    if not drafts:
        return numpy.empty(0, numpy.int64), numpy.empty((0, 0), state.dtype)
    return to_numpy(xp.concatenate(drafts)), to_numpy(xp.concatenate(rows))
