"""Compiled cross-entropy and embedding gradient. See `kernels/plain` for the definitions."""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import ZERO, exponential, largest, sum_of_exponentials


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
