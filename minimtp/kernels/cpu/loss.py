"""Compiled cross-entropy and gradient of embeddings, as `kernels/plain` defines them."""

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


def mixed_cross_entropy(logits, targets, text_grad, guide, guide_grad):
    losses, log_sum_exp = cross_entropy(logits, targets)
    targets = np.ascontiguousarray(targets, np.int64)
    if guide is None:
        _cross_entropy_in_place(logits, targets, log_sum_exp, np.ascontiguousarray(text_grad))
    else:
        grads = np.stack([text_grad, guide_grad])  # (2, N)
        _mixed_cross_entropy(logits, targets, log_sum_exp, grads, guide)
    return losses


@compiled
def _cross_entropy_in_place(logits, targets, log_sum_exp, grad):
    for i in range(logits.shape[0]):
        scale = grad[i] if targets[i] >= 0 else ZERO
        for j in range(logits.shape[1]):
            logits[i, j] = exponential(logits[i, j] - log_sum_exp[i]) * scale
        if targets[i] >= 0:
            logits[i, targets[i]] -= scale


@compiled
def _mixed_cross_entropy(logits, targets, log_sum_exp, grads, guide):
    for i in range(logits.shape[0]):
        shift = largest(guide[i])
        guide_sum = shift + np.log(sum_of_exponentials(guide[i], shift))
        scale = grads[0, i] if targets[i] >= 0 else ZERO
        both = scale + grads[1, i]
        for j in range(logits.shape[1]):
            q = exponential(guide[i, j] - guide_sum)
            logits[i, j] = exponential(logits[i, j] - log_sum_exp[i]) * both - q * grads[1, i]
        if targets[i] >= 0:
            logits[i, targets[i]] -= scale


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
