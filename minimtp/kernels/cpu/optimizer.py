"""Compiled AdamW. See `kernels/plain/optimizer.py` for the definition."""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled

CHUNK = 2048  # parameters per chunk, few enough that the second loop finds them in the cache


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
    if np.ndim(decay_mask) == 0:  # every chunk reads the same numbers
        decay_mask = np.full(min(CHUNK, len(parameters)), decay_mask, parameters.dtype)
    corrections = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
    rates = (1 - beta1, 1 - beta2, *corrections, eps, weight_decay, learning_rate, gradient_scale)
    _adamw(parameters, gradients, first, second, decay_mask, np.array(rates, np.float32))


@compiled
def _adamw(parameters, gradients, first, second, decay_mask, rates):
    rate1, rate2, first_correction, second_correction = rates[0], rates[1], rates[2], rates[3]
    eps, weight_decay, learning_rate, gradient_scale = rates[4], rates[5], rates[6], rates[7]
    for start in range(0, parameters.shape[0], CHUNK):
        chunk = slice(start, min(start + CHUNK, parameters.shape[0]))
        p, g = parameters[chunk], gradients[chunk]
        decay = decay_mask[chunk] if decay_mask.shape[0] == parameters.shape[0] else decay_mask
        m, v = first[chunk], second[chunk]
        # Two loops, because LLVM gives up on vectorizing one that needs more than a few tests for
        # overlapping arrays.
        for j in range(m.shape[0]):
            gradient = g[j] * gradient_scale
            m[j] += rate1 * (gradient - m[j])
            v[j] += rate2 * (gradient * gradient - v[j])
        for j in range(p.shape[0]):
            update = (m[j] * first_correction) / (np.sqrt(v[j] * second_correction) + eps)
            p[j] -= learning_rate * (update + p[j] * (decay[j] * weight_decay))
