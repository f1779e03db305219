"""Drafting with a gated head: one token, a chain or a tree of drafts in one compiled call.

plain/decoding/gated_head.py describes each function.
"""

from dataclasses import dataclass

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.gates import gated_update_rows, swiglu_columns
from minimtp.kernels.cpu.math import ZERO, exponentiate, largest, sum_of_exponentials
from minimtp.kernels.cpu.matrices.embedding_rows import decode_rows, embedding
from minimtp.kernels.cpu.matrices.packed_linear import linear, multiply
from minimtp.kernels.cpu.norms import normalize, rms_norm
from minimtp.kernels.cpu.sampling import pick, place_of_largest, softmax_weights
from minimtp.kernels.cpu.truncation import truncate_row
from minimtp.kernels.plain.decoding.gated_head import TokenParts

ONE = np.float32(1)
NO_NOISE = np.empty((0, 0))
ALL_TOKENS = np.empty(0, np.int64)
NO_TABLE = np.empty((0, 0), np.float32)
NO_NORM = np.empty(0, np.float32)
NO_PANELS = np.empty((0, 0), np.uint8)


@dataclass(frozen=True, slots=True)
class PreparedGatedStep:
    # What the compiled functions take as `weights`: norms and panels in the order of their use, the
    # formats of the panels, and epsilon. Without a feed-forward part, its panels are empty.
    weights: tuple
    vocabulary: int  # V', the number of logits
    tokens: np.ndarray  # (V',) int64, the tokens of the logits; empty: 0 .. V' - 1


def prepare_gated_step(
    state_norm, from_state, norm, output, epsilon, tokens=None, feed_forward=None
):
    state_norm, norm = (np.array(weight, np.float32) for weight in (state_norm, norm))
    between, kinds = (NO_NORM, NO_PANELS, NO_PANELS, 0), (0, 0)
    if feed_forward is not None:
        gate_up, down = feed_forward.gate_up, feed_forward.down
        between = np.array(feed_forward.norm, np.float32), gate_up.panels, down.panels, down.columns
        kinds = gate_up.kind, down.kind
    kinds = from_state.kind, *kinds, output.kind
    weights = (state_norm, from_state.panels, between, norm, output.panels, kinds, epsilon)
    tokens = ALL_TOKENS if tokens is None else np.array(tokens, np.int64)
    return PreparedGatedStep(weights, output.rows, tokens)


def prepare_token_parts(table, norm, from_token, epsilon):
    norm = np.array(norm, np.float32)
    return TokenParts(table, norm, from_token, epsilon, embedding, rms_norm, linear)


def _sources(token_parts):
    """Return where `_token_part` reads or computes parts: arrays, and numbers."""
    if isinstance(token_parts, TokenParts):
        table, from_token = token_parts.table, token_parts.from_token
        arrays = NO_TABLE, token_parts.norm, table.panels, from_token.panels
        return arrays, (table.kind, table.rows, from_token.kind)
    return (token_parts, NO_NORM, NO_PANELS, NO_PANELS), (0, 0, 0)


@compiled
def _token_part(token, sources, epsilon, part):
    """Return the part (1, 2D) of a token: a row of the table, or computed into `part`."""
    (parts, norm, table, from_token), (table_kind, vocabulary, kind) = sources
    if parts.shape[0] > 0:
        return parts[token : token + 1]
    row, inverse_rms = np.empty((1, norm.shape[0]), np.float32), np.empty(1, np.float32)
    decode_rows(table_kind, table, vocabulary, np.full(1, token), row)
    normed = np.empty_like(row)
    normalize(row, norm, epsilon, normed, inverse_rms)
    multiply(kind, normed, from_token, 0, from_token.shape[0], part)
    return part


def gated_step(state, token_part, step):
    logits = np.empty((1, step.vocabulary), np.float32)
    return logits, _gated_step(state, token_part, step.weights, logits)


@compiled
def _gated_step(state, token_part, weights, logits):
    """Update the state and write the logits. Return their maximum probability."""
    state_norm, from_state, feed_forward, norm, output, kinds, epsilon = weights
    normed, inverse_rms = np.empty_like(state), np.empty(1, np.float32)
    normalize(state, state_norm, epsilon, normed, inverse_rms)
    gate_candidate = np.empty((1, 2 * state.shape[1]), np.float32)
    multiply(kinds[0], normed, from_state, 0, from_state.shape[0], gate_candidate)
    for j in range(gate_candidate.shape[1]):
        gate_candidate[0, j] += token_part[0, j]
    gated_update_rows(state, gate_candidate, state)
    if feed_forward[0].shape[0] > 0:
        _add_feed_forward(state, feed_forward, kinds, epsilon, normed, inverse_rms)
    normalize(state, norm, epsilon, normed, inverse_rms)
    multiply(kinds[3], normed, output, 0, output.shape[0], logits)
    return ONE / sum_of_exponentials(logits[0], largest(logits[0]))


@compiled
def _add_feed_forward(state, weights, kinds, epsilon, normed, inverse_rms):
    """Add the feed-forward part of the state (1, D) to it. Overwrites normed and inverse_rms."""
    norm, gate_up, down, width = weights
    normalize(state, norm, epsilon, normed, inverse_rms)
    gates, inner = np.empty((1, 2 * width), np.float32), np.empty((1, width), np.float32)
    multiply(kinds[1], normed, gate_up, 0, gate_up.shape[0], gates)
    swiglu_columns(gates, 0, width, inner)
    multiply(kinds[2], inner, down, 0, down.shape[0], normed)
    for j in range(state.shape[1]):
        state[0, j] += normed[0, j]


def gated_draft(
    state, token, token_parts, depth, min_confidence, step, noise=None,
    temperature=1.0, top_k=0, top_p=1.0,
):  # fmt: skip
    drafts = np.empty(depth, np.int64)
    noise = NO_NOISE if noise is None else noise
    shaping = float(temperature), top_k, float(top_p)
    settings = token, float(min_confidence), shaping, step.vocabulary, step.tokens
    count = _draft(state, _sources(token_parts), step.weights, settings, noise, drafts)
    return drafts[:count]


@compiled
def _draft(state, sources, weights, settings, noise, drafts):
    """Write the drafts. Return their number."""
    token, min_confidence, shaping, vocabulary, tokens = settings
    state, min_confidence = state.copy(), np.float32(min_confidence)
    logits, confidence = np.empty((1, vocabulary), np.float32), ONE
    buffer = np.empty((1, 2 * state.shape[1]), np.float32)
    for index in range(drafts.shape[0]):
        part = _token_part(token, sources, weights[6], buffer)
        confidence *= _gated_step(state, part, weights, logits)
        if confidence < min_confidence:
            return index
        if noise.shape[0] == 0:
            # If a logit is NaN (-1), token 0: verification decides about it like any other.
            token = max(0, place_of_largest(logits[0]))
        else:
            _shape(logits[0], shaping)
            token = (logits[0] + _noise_of(tokens, noise[index])).argmax()
        if tokens.shape[0] > 0:
            token = tokens[token]
        drafts[index] = token
    return drafts.shape[0]


def gated_sampled_draft(
    state, token, token_parts, depth, min_confidence, step, points, temperature, top_k=0, top_p=1.0
):
    drafts = np.empty(depth, np.int64)
    scores = np.empty((depth, step.vocabulary), np.float32)
    shaping = float(temperature), top_k, float(top_p)
    settings = token, float(min_confidence), shaping, step.tokens
    sources = _sources(token_parts)
    count = _sampled_draft(state, sources, step.weights, settings, points, drafts, scores)
    return drafts[:count], scores[:count]


@compiled
def _sampled_draft(state, sources, weights, settings, points, drafts, scores):
    """Write the drafts and their scores. Return their number."""
    token, min_confidence, shaping, tokens = settings
    state, min_confidence = state.copy(), np.float32(min_confidence)
    buffer = np.empty((1, 2 * state.shape[1]), np.float32)
    shares, confidence = np.empty(scores.shape[1], np.float32), ONE
    for index in range(drafts.shape[0]):
        part = _token_part(token, sources, weights[6], buffer)
        confidence *= _gated_step(state, part, weights, scores[index : index + 1])
        if confidence < min_confidence:
            return index
        _shape(scores[index], shaping)
        softmax_weights(scores[index], ONE, shares)
        # Of -1, logits that are not finite, any token: the scores fail in verification.
        token = max(0, pick(points[index], shares))
        if tokens.shape[0] > 0:
            token = tokens[token]
        drafts[index] = token
    return drafts.shape[0]


@compiled
def _shape(logits, shaping):
    """Replace the logits (V',) by their scores, those of `scores_of` (draft_chain.py)."""
    temperature, top_k, top_p = shaping
    if temperature != 1.0:
        divisor = np.float32(temperature)
        for v in range(logits.shape[0]):
            logits[v] /= divisor
    if 0 < top_k < logits.shape[0] or top_p < 1.0:
        truncate_row(logits, top_k, top_p)


@compiled
def _noise_of(tokens, noise):
    """Return the part of the noise (V,) that belongs to the tokens."""
    return noise if tokens.shape[0] == 0 else noise[tokens]


def gated_tree(
    state, token, token_parts, sizes, min_acceptance, sharpness, step, noise=None,
    temperature=1.0, top_k=0, top_p=1.0,
):  # fmt: skip
    nodes, depth, width = sizes
    tokens, parents = np.empty(nodes + 1, np.int64), np.empty(nodes + 1, np.int64)
    noise = NO_NOISE if noise is None else noise
    shaping = float(temperature), top_k, float(top_p)
    floats = float(min_acceptance), np.float32(sharpness)
    settings = token, depth, width, *floats, shaping, step.vocabulary, step.tokens
    count = _tree(state, _sources(token_parts), step.weights, settings, noise, tokens, parents)
    return tokens[:count], parents[:count]


@compiled
def _tree(state, sources, weights, settings, noise, tokens, parents):
    """Write the tokens and parents of the nodes. Return the number of nodes."""
    token, depth, width, min_acceptance, sharpness, shaping, vocabulary, ids = settings
    max_nodes = tokens.shape[0]
    states = np.empty((max_nodes, state.shape[1]), np.float32)
    depths = np.empty(max_nodes, np.int64)
    logits, scores = np.empty((1, vocabulary), np.float32), np.empty(vocabulary)
    buffer = np.empty((1, 2 * state.shape[1]), np.float32)
    # By node: the most probable next tokens, in order, their probabilities, and how many of them
    # are in the tree.
    candidates = np.empty((max_nodes, width), np.int64)
    probabilities = np.empty((max_nodes, width))
    taken = np.empty(max_nodes, np.int64)
    states[0], tokens[0], parents[0], depths[0] = state[0], token, -1, 0
    probability, node = 1.0, 0
    while node + 1 < max_nodes:
        taken[node] = width  # no candidates, if the node is as deep as allowed
        if depths[node] < depth:
            taken[node] = 0
            part = _token_part(tokens[node], sources, weights[6], buffer)
            _gated_step(states[node : node + 1], part, weights, logits)
            _shape(logits[0], shaping)
            scores[:] = logits[0]
            if noise.shape[0] > 0:
                scores += _noise_of(ids, noise[depths[node]])
            _most_probable(scores, sharpness, candidates[node], probabilities[node])
            if ids.shape[0] > 0:
                candidates[node] = ids[candidates[node]]
            probabilities[node] *= probability
        best, probability = -1, -1.0
        for other in range(node + 1):
            if taken[other] < width and probabilities[other, taken[other]] > probability:
                best, probability = other, probabilities[other, taken[other]]
        if probability < min_acceptance:
            break
        node += 1
        states[node], tokens[node] = states[best], candidates[best, taken[best]]
        parents[node], depths[node] = best, depths[best] + 1
        taken[best] += 1
    return node + 1


@compiled
def _most_probable(scores, sharpness, tokens, probabilities):
    """Write the tokens with the highest scores, and the softmax of sharpness * scores at them, -1
    for a score of -inf.

    Ties go to the lowest id. Overwrites the scores.
    """
    weights = (scores - scores.max()).astype(np.float32)
    total = exponentiate(weights, ZERO, sharpness)
    for rank in range(tokens.shape[0]):
        token = scores.argmax()
        tokens[rank] = token
        probabilities[rank] = -1.0 if scores[token] == -np.inf else weights[token] / total
        scores[token] = -np.inf
