"""Drafting with a gated head: one token, or a whole greedy draft, in one compiled call; see `plain.gated_step`."""

from dataclasses import dataclass

from minimtp.backend import numpy as np
from minimtp.kernels.compiling import compiled
from minimtp.kernels.cpu_math import largest, sum_of_exponentials
from minimtp.kernels.cpu_products import multiply
from minimtp.kernels.cpu_training import gated_update_rows, normalize

ONE = np.float32(1)


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


def gated_greedy_draft(state, token, token_parts, depth, least_confidence, step):
    drafts = np.empty(depth, np.int64)
    settings = (token, depth, np.float32(least_confidence))
    count = _greedy_draft(state, token_parts, *step.weights, step.kinds, step.epsilon, step.vocabulary, settings, drafts)
    return drafts[:count]


@compiled
def _greedy_draft(
    state, token_parts, state_norm, from_state, norm, output, kinds, epsilon, vocabulary, settings, drafts
):
    token, depth, least_confidence = settings
    logits, confidence = np.empty((1, vocabulary), np.float32), ONE
    for index in range(depth):
        part = token_parts[token : token + 1]
        confidence *= _gated_step(state, part, state_norm, from_state, norm, output, kinds, epsilon, logits)
        if confidence < least_confidence:
            return index
        token = logits[0].argmax()
        drafts[index] = token
    return depth
