"""Gated units in plain array code: SwiGLU (Shazeer 2020, arXiv 2002.05202) and a gated recurrent
update.
"""

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)). If exp(-x) overflows (x < -88 in float32), the infinity gives the right
    result, 0.
    """
    with np.errstate(over="ignore"):
        return 1 / (1 + array_module(x).exp(-x))


def swiglu(gate_up: Array) -> Array:
    """silu(gate) * up with silu(g) = g * sigmoid(g): gate_up (N, 2F), gate first -> (N, F)."""
    width = gate_up.shape[1] // 2
    gate, up = gate_up[:, :width], gate_up[:, width:]
    return sigmoid(gate) * gate * up


def swiglu_backward(grad: Array, gate_up: Array) -> Array:
    """Gradient of `swiglu`: grad (N, F) -> (N, 2F), with silu' = sigmoid + silu (1 - sigmoid).

    The sigmoid is computed again rather than stored.
    """
    width = gate_up.shape[1] // 2
    gate, up = gate_up[:, :width], gate_up[:, width:]
    s = sigmoid(gate)
    silu = gate * s
    result = array_module(grad).empty_like(gate_up)
    result[:, :width] = (s + silu * (1 - s)) * grad * up
    result[:, width:] = grad * silu
    return result


def gated_update(state: Array, gate_candidate: Array) -> Array:
    """state + sigmoid(gate) * (candidate - state): state (N, D), gate_candidate (N, 2D), gate first
    -> (N, D).
    """
    width = state.shape[1]
    gate, candidate = gate_candidate[:, :width], gate_candidate[:, width:]
    return state + sigmoid(gate) * (candidate - state)


def gated_update_backward(grad: Array, state: Array, gate_candidate: Array) -> tuple[Array, Array]:
    """Gradients of `gated_update`: grad (N, D) -> dstate (N, D), dgate_candidate (N, 2D)."""
    width = state.shape[1]
    gate, candidate = gate_candidate[:, :width], gate_candidate[:, width:]
    s = sigmoid(gate)
    dcandidate = grad * s
    dgate = dcandidate * (1 - s) * (candidate - state)
    return grad - dcandidate, array_module(grad).concatenate([dgate, dcandidate], axis=1)
