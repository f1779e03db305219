"""Drafting with a gated head on the GPU: a whole chain of drafts is one recorded graph.

plain/decoding/gated_head.py describes each function.
"""

from dataclasses import dataclass

from minimtp.backend import Array, array_module, numpy
from minimtp.kernels.cuda.graph import Graphs
from minimtp.kernels.cuda.packed_linear import embedding, linear
from minimtp.kernels.cuda.sampling import choose_into
from minimtp.kernels.cuda.training import gated_update, rms_norm, swiglu
from minimtp.kernels.plain.decoding.draft_chain import argmax_chain, noise_of, sampled_chain
from minimtp.kernels.plain.decoding.gated_head import PreparedFeedForward, TokenParts, draft_tree
from minimtp.kernels.plain.packed_linear import PreparedMatrix


@dataclass(frozen=True)
class PreparedGatedStep:
    """The fields of plain.PreparedGatedStep, and the recorded drafts: one graph per depth."""

    state_norm: Array
    from_state: PreparedMatrix
    norm: Array
    output: PreparedMatrix
    epsilon: float
    tokens: Array | None
    feed_forward: PreparedFeedForward | None
    graphs: Graphs


def prepare_gated_step(
    state_norm, from_state, norm, output, epsilon, tokens=None, feed_forward=None
):
    tokens = None if tokens is None else array_module(norm).asarray(tokens)
    return PreparedGatedStep(
        state_norm, from_state, norm, output, epsilon, tokens, feed_forward, Graphs()
    )


def prepare_token_parts(table, norm, from_token, epsilon):
    return TokenParts(table, norm, from_token, epsilon, embedding, rms_norm, linear)


def gated_step(state, token_part, step: PreparedGatedStep):
    logits = _next_logits(state, token_part, step)
    probability = array_module(logits).empty(1, numpy.float32)
    choose_into(logits, 1.0, probabilities=probability)
    return logits, probability[0]


def _next_logits(state, token_part, step):
    normed, _ = rms_norm(state, step.state_norm, step.epsilon)
    state[...] = gated_update(state, linear(normed, step.from_state) + token_part)
    if step.feed_forward is not None:
        normed, _ = rms_norm(state, step.feed_forward.norm, step.epsilon)
        inner = swiglu(linear(normed, step.feed_forward.gate_up))
        state += linear(inner, step.feed_forward.down)
    normed, _ = rms_norm(state, step.norm, step.epsilon)
    return linear(normed, step.output)


def gated_draft(
    state, token, token_parts, depth, min_confidence, step, noise=None,
    temperature=1.0, top_k=0, top_p=1.0,
):  # fmt: skip
    """As in plain/decoding/gated_head.py. The host waits once, for all `depth` tokens together,
    unless top-k or top-p sort the scores, which a graph cannot record.
    """
    if noise is not None and (top_k > 0 or top_p < 1):
        follow, shaping = _steps(state.copy(), token_parts, step), (temperature, top_k, top_p)
        return argmax_chain(
            follow, state, token, depth, min_confidence, noise, shaping, step.tokens
        )
    inputs = () if noise is None else (noise_of(step.tokens, array_module(state).asarray(noise)),)
    temperature = 1.0 if noise is None else float(temperature)

    def draft(state, token, *noise):
        # The results are written to slices of one array. To concatenate more than eight arrays,
        # CuPy would upload their addresses, which a graph cannot record.
        xp = array_module(state)
        tokens, probabilities = xp.empty(depth, xp.int64), xp.empty(depth, xp.float32)
        for place in range(depth):
            here = slice(place, place + 1)
            logits = _next_logits(state, token_parts[token], step)
            row = noise[0][here] if noise else None
            token = choose_into(logits, temperature, row, tokens[here], probabilities[here])
            if step.tokens is not None:
                # Of -1, logits that are not finite, the last token. No draft can be right then.
                token = step.tokens[token]
                tokens[here] = token
        found = xp.empty((2, depth), xp.float64)
        found[0], found[1] = tokens, probabilities
        return (found,)

    key = depth, id(token_parts), temperature, len(inputs)
    (found,) = step.graphs.run(key, draft, state.copy(), numpy.int64(token), *inputs)
    tokens, probabilities = found.get()  # (2, K)
    doubtful = probabilities.cumprod() < min_confidence
    count = int(doubtful.argmax()) if doubtful.any() else depth
    # -1 stands for logits that are not finite. Then no draft can be right, so take any.
    return numpy.maximum(tokens[:count], 0).astype(numpy.int64)


def gated_sampled_draft(
    state, token, token_parts, depth, min_confidence, step, points, temperature, top_k=0, top_p=1.0
):
    follow, shaping = _steps(state.copy(), token_parts, step), (temperature, top_k, top_p)
    return sampled_chain(follow, state, token, depth, min_confidence, points, shaping, step.tokens)


def _steps(state, token_parts, step):
    """Return a function token (1,) -> logits (1, V') and their maximum probability."""
    return lambda token: gated_step(state, token_parts[token], step)


def gated_tree(
    state, token, token_parts, sizes, min_acceptance, sharpness, step, noise=None,
    temperature=1.0, top_k=0, top_p=1.0,
):  # fmt: skip
    def follow(state, token):
        return _next_logits(state, token_parts[token], step)

    shaping = temperature, top_k, top_p
    return draft_tree(
        follow, state, token, sizes, min_acceptance, sharpness, noise, shaping, step.tokens
    )
