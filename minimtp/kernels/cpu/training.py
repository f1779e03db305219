"""The training kernels, compiled: each is one pass over its arrays where array code makes five or ten.

The products of a training step are BLAS's; what is left is limited by memory traffic and by page faults of temporaries,
and both go away when the whole expression is computed while a row is in the cache. Meanings and shapes are those of the
twins in `plain.py`; arrays are float32 and are made contiguous if they are not.

Loops are written so that LLVM turns them into vector instructions: the innermost runs over contiguous elements, without
calls, over a bound that is visibly not negative (`range(y.shape[0])`); constants are float32, because one float64
literal makes everything beside it float64.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate
from minimtp.kernels.cpu.math import exponential, exponentiate, largest, sum_of_exponentials

ZERO, ONE = np.float32(0), np.float32(1)

# ------------------------------------------------------------------------------------------------------- normalization


def rms_norm(x, weight, eps):
    x = np.ascontiguousarray(x)
    y, inverse_rms = np.empty_like(x), np.empty(x.shape[0], np.float32)
    normalize(x, weight, eps, y, inverse_rms)
    return y, inverse_rms


@compiled
def normalize(x, weight, eps, y, inverse_rms):
    width = np.float32(x.shape[1])
    for i in range(x.shape[0]):
        inverse = ONE / np.sqrt(_dot(x[i], x[i]) / width + np.float32(eps))
        inverse_rms[i] = inverse
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * inverse * weight[j]


@compiled(fastmath=reassociate)
def _dot(a, b):
    total = ZERO
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


def rms_norm_backward(grad, x, weight, inverse_rms):
    grad = np.ascontiguousarray(grad)
    dx, dweight = np.empty_like(grad), np.zeros(grad.shape[1], np.float32)
    _rms_norm_backward(grad, np.ascontiguousarray(x), weight, inverse_rms, dx, dweight)
    return dx, dweight


@compiled
def _rms_norm_backward(grad, x, weight, inverse_rms, dx, dweight):
    width = np.float32(x.shape[1])
    for i in range(x.shape[0]):
        inverse = inverse_rms[i]
        along = _dot_of_three(grad[i], weight, x[i]) * inverse * inverse / width
        for j in range(x.shape[1]):
            dweight[j] += grad[i, j] * (x[i, j] * inverse)
        for j in range(x.shape[1]):
            dx[i, j] = (grad[i, j] * weight[j] - x[i, j] * along) * inverse


@compiled(fastmath=reassociate)
def _dot_of_three(a, b, c):
    total = ZERO
    for j in range(a.shape[0]):
        total += a[j] * b[j] * c[j]
    return total


# -------------------------------------------------------------------------------------------------------- feed-forward


def swiglu(gate_up):
    gate_up = np.ascontiguousarray(gate_up)
    y = np.empty((gate_up.shape[0], gate_up.shape[1] // 2), np.float32)
    swiglu_rows(gate_up, y)
    return y


@compiled
def swiglu_rows(gate_up, y):
    width = y.shape[1]
    for i in range(y.shape[0]):
        gate, up = gate_up[i, :width], gate_up[i, width:]
        for j in range(y.shape[1]):
            y[i, j] = gate[j] / (ONE + exponential(-gate[j])) * up[j]


def swiglu_backward(grad, gate_up):
    gate_up = np.ascontiguousarray(gate_up)
    result = np.empty_like(gate_up)
    _swiglu_backward(np.ascontiguousarray(grad), gate_up, result)
    return result


@compiled
def _swiglu_backward(grad, gate_up, result):
    width = grad.shape[1]
    for i in range(grad.shape[0]):
        gate, up = gate_up[i, :width], gate_up[i, width:]
        dgate, dup = result[i, :width], result[i, width:]
        for j in range(grad.shape[1]):
            sigmoid = ONE / (ONE + exponential(-gate[j]))
            silu = gate[j] * sigmoid
            dgate[j] = grad[i, j] * up[j] * (sigmoid + silu * (ONE - sigmoid))
            dup[j] = grad[i, j] * silu


def gated_update(state, gate_candidate):
    y = np.empty_like(state)
    gated_update_rows(state, gate_candidate, y)
    return y


@compiled
def gated_update_rows(state, gate_candidate, y):
    width = y.shape[1]
    for i in range(y.shape[0]):
        gate, candidate = gate_candidate[i, :width], gate_candidate[i, width:]
        for j in range(y.shape[1]):
            y[i, j] = state[i, j] + (candidate[j] - state[i, j]) / (ONE + exponential(-gate[j]))


def gated_update_backward(grad, state, gate_candidate):
    dstate, result = np.empty_like(state), np.empty_like(gate_candidate)
    _gated_update_backward(np.ascontiguousarray(grad), state, gate_candidate, dstate, result)
    return dstate, result


@compiled
def _gated_update_backward(grad, state, gate_candidate, dstate, result):
    width = grad.shape[1]
    for i in range(grad.shape[0]):
        gate, candidate = gate_candidate[i, :width], gate_candidate[i, width:]
        dgate, dcandidate = result[i, :width], result[i, width:]
        for j in range(grad.shape[1]):
            sigmoid = ONE / (ONE + exponential(-gate[j]))
            passed = grad[i, j] * sigmoid
            dcandidate[j] = passed
            dstate[i, j] = grad[i, j] - passed
            dgate[j] = passed * (ONE - sigmoid) * (candidate[j] - state[i, j])


# ----------------------------------------------------------------------------------------------------------- attention


def rotate(x, cos, sin):
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    batch, length, heads, head_dim = x.shape
    pairs = (batch, length, heads, head_dim // 2, 2)
    _rotate(
        x.reshape(pairs), np.ascontiguousarray(cos), np.ascontiguousarray(sin), y.reshape(pairs)
    )
    return y


@compiled
def _rotate(x, cos, sin, y):
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for h in range(x.shape[2]):
                for j in range(x.shape[3]):
                    even, odd = x[b, t, h, j, 0], x[b, t, h, j, 1]
                    y[b, t, h, j, 0] = even * cos[t, j] - odd * sin[t, j]
                    y[b, t, h, j, 1] = even * sin[t, j] + odd * cos[t, j]


def causal_softmax(scores, scale):
    scores = np.ascontiguousarray(scores)
    _causal_softmax(scores, scale)
    return scores


@compiled
def _causal_softmax(scores, scale):
    before = scores.shape[2] - scores.shape[1]
    for m in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            past, future = scores[m, i, : before + i + 1], scores[m, i, before + i + 1 :]
            inverse = ONE / exponentiate(past, largest(past), np.float32(scale))
            for j in range(past.shape[0]):
                past[j] *= inverse
            for j in range(future.shape[0]):
                future[j] = ZERO


def causal_softmax_backward(grad, probabilities, scale):
    grad = np.ascontiguousarray(grad)
    _causal_softmax_backward(grad, np.ascontiguousarray(probabilities), scale)
    return grad


@compiled
def _causal_softmax_backward(grad, probabilities, scale):
    before = grad.shape[2] - grad.shape[1]
    for m in range(grad.shape[0]):
        for i in range(grad.shape[1]):
            end = before + i + 1
            past, p, future = grad[m, i, :end], probabilities[m, i, :end], grad[m, i, end:]
            along = _dot(past, p)
            for j in range(past.shape[0]):
                past[j] = (past[j] - along) * p[j] * np.float32(scale)
            for j in range(future.shape[0]):
                future[j] = ZERO


# ----------------------------------------------------------------------------------------------------- loss, embedding


def cross_entropy(logits, targets):
    logits = np.ascontiguousarray(logits)
    losses, log_sum_exp = np.empty(len(logits), np.float32), np.empty(len(logits), np.float32)
    _cross_entropy(logits, np.ascontiguousarray(targets, np.int64), losses, log_sum_exp)
    return losses, log_sum_exp


@compiled
def _cross_entropy(logits, targets, losses, log_sum_exp):
    for i in range(logits.shape[0]):
        shift = largest(logits[i])
        log_sum_exp[i] = shift + np.log(sum_of_exponentials(logits[i], shift))
        target = targets[i]
        if target >= logits.shape[1]:
            raise IndexError("a target is not below the number of logits")
        losses[i] = log_sum_exp[i] - logits[i, target] if target >= 0 else ZERO


def cross_entropy_backward(logits, targets, log_sum_exp, grad):
    logits = np.ascontiguousarray(logits)
    result = np.empty_like(logits)
    targets, grad = np.ascontiguousarray(targets, np.int64), np.ascontiguousarray(grad)
    _cross_entropy_backward(logits, targets, log_sum_exp, grad, result)
    return result


@compiled
def _cross_entropy_backward(logits, targets, log_sum_exp, grad, result):
    for i in range(logits.shape[0]):
        target = targets[i]
        scale = grad[i] if target >= 0 else ZERO
        for j in range(logits.shape[1]):
            result[i, j] = exponential(logits[i, j] - log_sum_exp[i]) * scale
        if target >= 0:
            result[i, target] -= scale


def embedding_backward(grad, tokens, out):
    _embedding_backward(np.ascontiguousarray(grad), np.ascontiguousarray(tokens, np.int64), out)


@compiled
def _embedding_backward(grad, tokens, out):
    for i in range(grad.shape[0]):
        token = tokens[i]
        if token < 0 or token >= out.shape[0]:
            raise IndexError("a token is not a row of the embedding")
        for j in range(grad.shape[1]):
            out[token, j] += grad[i, j]


# ----------------------------------------------------------------------------------------------------------- optimizer

CHUNK = 2048  # parameters updated at a time: what the first loop wrote is in the cache when the second reads it


def adamw(
    parameters,
    gradients,
    first,
    second,
    decay_mask,
    learning_rate,
    beta1,
    beta2,
    eps,
    weight_decay,
    step,
    gradient_scale,
):
    if np.ndim(decay_mask) == 0:
        decay_mask = np.full_like(parameters, decay_mask)
    corrections = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
    rates = (1 - beta1, 1 - beta2, *corrections, eps, weight_decay, learning_rate, gradient_scale)
    _adamw(parameters, gradients, first, second, decay_mask, np.array(rates, np.float32))


@compiled
def _adamw(parameters, gradients, first, second, decay_mask, rates):
    rate1, rate2, first_correction, second_correction = rates[0], rates[1], rates[2], rates[3]
    eps, weight_decay, learning_rate, gradient_scale = rates[4], rates[5], rates[6], rates[7]
    for start in range(0, parameters.shape[0], CHUNK):
        chunk = slice(start, min(start + CHUNK, parameters.shape[0]))
        p, g, m, v, decay = (
            parameters[chunk],
            gradients[chunk],
            first[chunk],
            second[chunk],
            decay_mask[chunk],
        )
        # Two loops, because LLVM gives up on vectorizing one that needs more than a few tests for overlapping arrays.
        for j in range(m.shape[0]):
            gradient = g[j] * gradient_scale
            m[j] += rate1 * (gradient - m[j])
            v[j] += rate2 * (gradient * gradient - v[j])
        for j in range(p.shape[0]):
            update = (m[j] * first_correction) / (np.sqrt(v[j] * second_correction) + eps)
            p[j] -= learning_rate * (update + p[j] * (decay[j] * weight_decay))
