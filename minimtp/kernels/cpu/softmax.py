"""Compiled versions of rotary positions and of the causal softmax for training. See
`kernels/plain/attention.py` for the definitions.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import ONE, ZERO, dot, exponentiate, largest


def rotate(x, cos, sin):
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    batch, length, heads, head_dim = x.shape
    if not cos.shape == sin.shape == (length, head_dim // 2):
        raise ValueError("rotate: the tables do not fit the positions")
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
            along = dot(past, p)
            for j in range(past.shape[0]):
                past[j] = (past[j] - along) * p[j] * np.float32(scale)
            for j in range(future.shape[0]):
                future[j] = ZERO
