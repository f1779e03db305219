"""Drafting with a gated head: one token, a whole draft, or a tree of drafts in one compiled call;
see `plain.gated_step`.
"""

from dataclasses import dataclass

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.gates import gated_update_rows
from minimtp.kernels.cpu.math import ZERO, exponentiate, largest, sum_of_exponentials
from minimtp.kernels.cpu.matrices.embedding_rows import decode_rows, embedding
from minimtp.kernels.cpu.matrices.packed_linear import linear, multiply
from minimtp.kernels.cpu.norms import normalize, rms_norm
from minimtp.kernels.plain.gated_drafts import TokenParts

ONE = np.float32(1)
NO_NOISE = np.empty((0, 0))
NO_TABLE, NO_NORM, NO_PANELS = (
    np.empty((0, 0), np.float32),
    np.empty(0, np.float32),
    np.empty((0, 0), np.uint8),
)


@dataclass(frozen=True, slots=True)
class PreparedGatedStep:
    weights: tuple  # norm, panels, norm, panels, in the order in which they are used
    kinds: tuple  # of the two panels
    vocabulary: int
    epsilon: float


def prepare_gated_step(state_norm, from_state, norm, output, epsilon):
    norms = [np.array(weight, np.float32) for weight in (state_norm, norm)]
    weights = (norms[0], from_state.panels, norms[1], output.panels)
    return PreparedGatedStep(weights, (from_state.kind, output.kind), output.rows, epsilon)


def prepare_token_parts(table, norm, from_token, epsilon):
    return TokenParts(
        table, np.array(norm, np.float32), from_token, epsilon, embedding, rms_norm, linear
    )


def _sources(token_parts):
    """Where `_token_part` finds or computes them: arrays, and numbers."""
    if isinstance(token_parts, TokenParts):
        table, from_token = token_parts.table, token_parts.from_token
        return (NO_TABLE, token_parts.norm, table.panels, from_token.panels), (
            table.kind,
            table.rows,
            from_token.kind,
        )
    return (token_parts, NO_NORM, NO_PANELS, NO_PANELS), (0, 0, 0)


@compiled
def _token_part(token, sources, epsilon, part):
    """A token's part, (1, 2D): of the table, or computed, into `part`."""
    (parts, norm, table, from_token), (table_kind, vocabulary, kind) = sources
    if parts.shape[0] > 0:
        return parts[token : token + 1]
    row, inverse_rms = np.empty((1, norm.shape[0]), np.float32), np.empty(1, np.float32)
    decode_rows(table_kind, table, vocabulary, np.full(1, token), row)
    normed = np.empty_like(row)
    normalize(row, norm, epsilon, normed, inverse_rms)
    multiply(kind, normed, from_token, part)
    return part


def gated_step(state, token_part, step):
    logits = np.empty((1, step.vocabulary), np.float32)
    return logits, _gated_step(state, token_part, *step.weights, step.kinds, step.epsilon, logits)


@compiled
def _gated_step(state, token_part, state_norm, from_state, norm, output, kinds, epsilon, logits):
    normed, inverse_rms = np.empty_like(state), np.empty(1, np.float32)
    normalize(state, state_norm, epsilon, normed, inverse_rms)
    gate_candidate = np.empty((1, 2 * state.shape[1]), np.float32)
    multiply(kinds[0], normed, from_state, gate_candidate)
    for j in range(gate_candidate.shape[1]):
        gate_candidate[0, j] += token_part[0, j]
    gated_update_rows(state, gate_candidate, state)
    normalize(state, norm, epsilon, normed, inverse_rms)
    multiply(kinds[1], normed, output, logits)
    return ONE / sum_of_exponentials(logits[0], largest(logits[0]))


def gated_greedy_draft(state, token, token_parts, depth, min_confidence, step):
    return _whole_draft(state, token, token_parts, depth, min_confidence, step, NO_NOISE, ONE)


def gated_sampled_draft(state, token, token_parts, noise, temperature, min_confidence, step):
    return _whole_draft(
        state, token, token_parts, len(noise), min_confidence, step, noise, np.float32(temperature)
    )


def _whole_draft(state, token, token_parts, depth, min_confidence, step, noise, temperature):
    drafts = np.empty(depth, np.int64)
    settings = (token, depth, np.float32(min_confidence), temperature)
    count = _draft(
        state, _sources(token_parts), *step.weights, step.kinds, step.epsilon, step.vocabulary, settings, noise, drafts
    )  # fmt: skip
    return drafts[:count]


@compiled
def _draft(
    state,
    sources,
    state_norm,
    from_state,
    norm,
    output,
    kinds,
    epsilon,
    vocabulary,
    settings,
    noise,
    drafts,
):
    token, depth, min_confidence, temperature = settings
    logits, confidence, room = (
        np.empty((1, vocabulary), np.float32),
        ONE,
        np.empty((1, 2 * state.shape[1]), np.float32),
    )
    for index in range(depth):
        part = _token_part(token, sources, epsilon, room)
        confidence *= _gated_step(
            state, part, state_norm, from_state, norm, output, kinds, epsilon, logits
        )
        if confidence < min_confidence:
            return index
        token = (
            logits[0].argmax()
            if noise.shape[0] == 0
            else (logits[0] / temperature + noise[index]).argmax()
        )
        drafts[index] = token
    return depth


def gated_tree(
    state, token, token_parts, sizes, min_acceptance, sharpness, step, noise=None, temperature=1.0
):
    nodes, depth, width = sizes
    tokens, parents = np.empty(nodes + 1, np.int64), np.empty(nodes + 1, np.int64)
    settings = (
        token,
        depth,
        width,
        float(min_acceptance),
        np.float32(sharpness),
        np.float32(temperature),
    )
    count = _tree(
        state, _sources(token_parts), *step.weights, step.kinds, step.epsilon, step.vocabulary,
        settings, NO_NOISE if noise is None else noise, tokens, parents,
    )  # fmt: skip
    return tokens[:count], parents[:count]


@compiled
def _tree(
    state,
    sources,
    state_norm,
    from_state,
    norm,
    output,
    kinds,
    epsilon,
    vocabulary,
    settings,
    noise,
    tokens,
    parents,
):
    token, depth, width, min_acceptance, sharpness, temperature = settings
    most = tokens.shape[0]
    states, depths = np.empty((most, state.shape[1]), np.float32), np.empty(most, np.int64)
    logits, scores = np.empty((1, vocabulary), np.float32), np.empty(vocabulary)
    room = np.empty((1, 2 * state.shape[1]), np.float32)
    # What may follow each node, the likeliest first: tokens, chances, and how many of them are
    # taken.
    candidates, chances, taken = (
        np.empty((most, width), np.int64),
        np.empty((most, width)),
        np.empty(most, np.int64),
    )
    states[0], tokens[0], parents[0], depths[0], chance, node = state[0], token, -1, 0, 1.0, 0
    while node + 1 < most:
        taken[node] = width  # nothing may follow
        if depths[node] < depth:
            taken[node] = 0
            part = _token_part(tokens[node], sources, epsilon, room)
            _gated_step(
                states[node : node + 1],
                part,
                state_norm,
                from_state,
                norm,
                output,
                kinds,
                epsilon,
                logits,
            )
            scores[:] = logits[0] / temperature
            if noise.shape[0] > 0:
                scores += noise[depths[node]]
            _likeliest(scores, sharpness, candidates[node], chances[node])
            chances[node] *= chance
        best, chance = -1, -1.0
        for other in range(node + 1):
            if taken[other] < width and chances[other, taken[other]] > chance:
                best, chance = other, chances[other, taken[other]]
        if chance < min_acceptance:
            break
        node += 1
        states[node], tokens[node] = states[best], candidates[best, taken[best]]
        parents[node], depths[node] = best, depths[best] + 1
        taken[best] += 1
    return node + 1


@compiled
def _likeliest(scores, sharpness, tokens, beliefs):
    """The largest scores, of equals the lowest first, and what a softmax of `sharpness` times the
    scores gives them.
    """
    weights = (scores - scores.max()).astype(np.float32)
    total = exponentiate(weights, ZERO, sharpness)
    for rank in range(tokens.shape[0]):
        tokens[rank] = scores.argmax()
        scores[tokens[rank]] = -np.inf
        beliefs[rank] = weights[tokens[rank]] / total
