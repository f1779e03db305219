"""Compiled RMSNorm. See `kernels/plain/norms.py` for the definition."""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate
from minimtp.kernels.cpu.math import ONE, ZERO, dot


def rms_norm(x, weight, eps):
    x = np.ascontiguousarray(x)
    y, inverse_rms = np.empty_like(x), np.empty(x.shape[0], np.float32)
    normalize(x, weight, eps, y, inverse_rms)
    return y, inverse_rms


@compiled
def normalize(x, weight, eps, y, inverse_rms):
    width = np.float32(x.shape[1])
    for i in range(x.shape[0]):
        inverse = ONE / np.sqrt(dot(x[i], x[i]) / width + np.float32(eps))
        inverse_rms[i] = inverse
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] * inverse * weight[j]


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
