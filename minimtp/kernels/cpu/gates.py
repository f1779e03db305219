"""Compiled SwiGLU and gated update. See `kernels/plain/gates.py` for the definitions."""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import ONE, inverse_logistic


def swiglu(gate_up):
    gate_up = np.ascontiguousarray(gate_up)
    y = np.empty((gate_up.shape[0], gate_up.shape[1] // 2), np.float32)
    swiglu_columns(gate_up, 0, y.shape[1], y)
    return y


@compiled
def swiglu_columns(gate_up, first, stop, y):
    """Compute the columns of y from `first` to before `stop`."""
    width = y.shape[1]
    for i in range(y.shape[0]):
        gate, up = gate_up[i, first:stop], gate_up[i, width + first : width + stop]
        product = y[i, first:stop]
        for j in range(product.shape[0]):
            product[j] = gate[j] / inverse_logistic(gate[j]) * up[j]


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
            sigmoid = ONE / inverse_logistic(gate[j])
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
            y[i, j] = state[i, j] + (candidate[j] - state[i, j]) / inverse_logistic(gate[j])


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
            sigmoid = ONE / inverse_logistic(gate[j])
            passed = grad[i, j] * sigmoid
            dcandidate[j] = passed
            dstate[i, j] = grad[i, j] - passed
            dgate[j] = passed * (ONE - sigmoid) * (candidate[j] - state[i, j])
