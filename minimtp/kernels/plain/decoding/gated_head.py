"""Drafting with a gated head, in plain array code.

A gated head (model/heads/) is a recurrence. Its state s starts at the trunk's hidden state, and
each token changes it:

    [g; c] = W_s norm(s) + part(token),   part(token) = W_t norm(embedding(token))
    s <- s + sigmoid(g) (c - s)
    s <- s + W_d swiglu(W_u norm(s))            if the head has a feed-forward part
    logits of the next token = output(norm(s))

`gated_step` computes one token, `gated_draft` and `gated_sampled_draft` a whole chain
(draft_chain.py), and `gated_tree` a tree. `draft_tree` takes any device's `gated_step`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from minimtp.backend import Array, array_module, numpy, to_numpy
from minimtp.kernels.plain.decoding.best_first_tree import best_first_tree
from minimtp.kernels.plain.decoding.draft_chain import (
    argmax_chain,
    max_probability,
    noise_of,
    sampled_chain,
    scores_of,
    tokens_at,
)
from minimtp.kernels.plain.gates import gated_update, swiglu
from minimtp.kernels.plain.norms import rms_norm
from minimtp.kernels.plain.packed_linear import PreparedMatrix, embedding, linear


@dataclass(frozen=True)
class PreparedFeedForward:
    """The weights of a feed-forward part."""

    norm: Array  # (D,)
    gate_up: PreparedMatrix  # W_u (2F, D), gate then up, prepared for `linear`
    down: PreparedMatrix  # W_d (D, F), prepared for `linear`


@dataclass(frozen=True)
class PreparedGatedStep:
    """The weights of a gated head and of the output layer."""

    state_norm: Array  # (D,)
    from_state: PreparedMatrix  # W_s (2D, D), gate then candidate, prepared for `linear`
    norm: Array  # (D,)
    output: PreparedMatrix  # (V', D), prepared for `linear`
    epsilon: float
    tokens: Array | None  # (V',) int64, increasing: the tokens of the logits; None: 0 .. V' - 1
    feed_forward: PreparedFeedForward | None


@dataclass(frozen=True, slots=True)
class TokenParts:
    """Computes part(token) when it is indexed; see `prepare_token_parts`."""

    table: PreparedMatrix  # the token embeddings (V, D), prepared for `linear`
    norm: Array  # (D,)
    from_token: PreparedMatrix  # W_t (2D, D), prepared for `linear`
    epsilon: float
    embedding: Callable  # this and the next two are functions of the kernels
    rms_norm: Callable
    linear: Callable

    def __getitem__(self, tokens: Array) -> Array:
        """Return the parts (R, 2D) of integer tokens (R,)."""
        normed, _ = self.rms_norm(self.embedding(self.table, tokens), self.norm, self.epsilon)
        return self.linear(normed, self.from_token)


def prepare_gated_step(
    state_norm, from_state, norm, output, epsilon, tokens=None, feed_forward=None
):
    """Prepare a gated head for `gated_step`. The matrices are results of `prepare_*`.

    tokens: int64 (V',), increasing, on the host: the tokens that the rows of the output stand for.
    None: row i stands for token i. feed_forward: a PreparedFeedForward, or None.
    """
    tokens = None if tokens is None else array_module(norm).asarray(tokens)
    return PreparedGatedStep(state_norm, from_state, norm, output, epsilon, tokens, feed_forward)


def prepare_token_parts(table, norm, from_token, epsilon):
    """Return an object that computes part(token) on demand: token_parts[tokens (R,)] -> (R, 2D).

    table (V, D), the token embeddings, and from_token (2D, D) are results of `prepare_*`; norm
    (D,). An array (V, 2D) of all parts can be used instead.
    """
    return TokenParts(table, norm, from_token, epsilon, embedding, rms_norm, linear)


def gated_step(state, token_part, step):
    """Compute one drafted token. Return its logits (1, V'), in the order of the rows of the output,
    and their maximum probability.

    state (1, D) is CHANGED IN PLACE. token_part (1, 2D) is part(token) of the token before.
    """
    normed, _ = rms_norm(state, step.state_norm, step.epsilon)
    state[...] = gated_update(state, linear(normed, step.from_state) + token_part)
    if step.feed_forward is not None:
        normed, _ = rms_norm(state, step.feed_forward.norm, step.epsilon)
        inner = swiglu(linear(normed, step.feed_forward.gate_up))
        state += linear(inner, step.feed_forward.down)
    normed, _ = rms_norm(state, step.norm, step.epsilon)
    logits = linear(normed, step.output)
    return logits, max_probability(logits)


def gated_draft(
    state, token, token_parts, depth, min_confidence, step, noise=None,
    temperature=1.0, top_k=0, top_p=1.0,
):  # fmt: skip
    """Return up to `depth` drafted tokens, int64 (K,) on the host.

    Each is argmax(logits), or argmax(scores + noise) with the scores of `scores_of` and noise
    (depth, V) float64, one row per token, on the host or where the state is. Ties go to the lowest
    id. state (1, D) is the state before the draft, `token` the token before it. The draft ends when
    the product of its maximum probabilities falls below `min_confidence`.
    """
    state = state.copy()

    def follow(token):
        return gated_step(state, token_parts[token], step)

    shaping = temperature, top_k, top_p
    return argmax_chain(follow, state, token, depth, min_confidence, noise, shaping, step.tokens)


def gated_sampled_draft(
    state, token, token_parts, depth, min_confidence, step, points, temperature, top_k=0, top_p=1.0
):
    """Return up to `depth` sampled tokens, int64 (K,), and their scores (K, V') of `scores_of`, in
    the order of the rows of the output. Both are on the host.

    Each token is sampled from the softmax of its scores as in `sample`, with one of the points
    (depth,). The other arguments are those of `gated_draft`.
    """
    state = state.copy()

    def follow(token):
        return gated_step(state, token_parts[token], step)

    shaping = temperature, top_k, top_p
    return sampled_chain(follow, state, token, depth, min_confidence, points, shaping, step.tokens)


def gated_tree(
    state, token, token_parts, sizes, min_acceptance, sharpness, step, noise=None,
    temperature=1.0, top_k=0, top_p=1.0,
):  # fmt: skip
    """Return the tokens (N + 1,) and parents (N + 1,), int64 on the host, of a tree of drafts.

    Node 0 is `token`, with parent -1. sizes: maximum number of drafts, maximum depth, maximum
    number of children of a node. The tree has the most probable nodes (best_first_tree.py). A
    child's probability is the softmax of sharpness * scores. Scores are those of `scores_of`, plus
    noise[depth of the node] if there is noise (depth, V), float64 on the host. Ties between scores
    go to the lowest id. No node's probability is below `min_acceptance`, and none has the score
    -inf.
    """

    def follow(state, token):
        return gated_step(state, token_parts[token], step)[0]

    shaping = temperature, top_k, top_p
    return draft_tree(
        follow, state, token, sizes, min_acceptance, sharpness, noise, shaping, step.tokens
    )


def draft_tree(follow, state, token, sizes, min_acceptance, sharpness, noise, shaping, tokens=None):
    """See `gated_tree`. follow(state (1, D), token (1,)) -> logits (1, V'); changes the state in
    place. shaping: temperature, top_k and top_p. tokens: the tokens (V',) of the logits; None means
    all.
    """
    nodes, depth, width = sizes
    xp, states = array_module(state), {-1: state}  # states by node
    ids = None if tokens is None else to_numpy(tokens)
    noise = None if noise is None else noise_of(ids, noise)

    def candidates(node, parent, path):
        states[node] = states[parent].copy()
        last = xp.full(1, path[-1] if path else token, "int64")
        scores = to_numpy(scores_of(follow(states[node], last), *shaping))[0]
        if noise is not None:
            scores = scores + noise[len(path)]
        weights = numpy.exp(sharpness * (scores - scores.max()))
        best = numpy.argsort(-scores, kind="stable")[:width]
        best = best[scores[best] > -numpy.inf]
        return tokens_at(ids, best).tolist(), (weights[best] / weights.sum()).tolist()

    tokens, parents = best_first_tree(token, candidates, nodes, depth, min_acceptance)
    return numpy.array(tokens, numpy.int64), numpy.array(parents, numpy.int64)
