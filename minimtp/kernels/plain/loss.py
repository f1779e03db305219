"""Cross-entropy in plain array code."""

from minimtp.backend import Array, array_module


def cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the negative log-likelihood of each row's target, in nats. A target of -1 is ignored:
    its loss is 0.

    logits (N, V), targets (N,) int64 -> losses (N,), log_sum_exp (N,). The backward needs
    log_sum_exp.
    """
    xp = array_module(logits)
    top = logits.max(axis=-1)
    log_sum_exp = top + xp.log(xp.exp(logits - top[:, None]).sum(axis=-1))
    chosen = logits[xp.arange(len(targets)), xp.maximum(targets, 0)]
    return xp.where(targets >= 0, log_sum_exp - chosen, logits.dtype.type(0)), log_sum_exp


def cross_entropy_backward(logits: Array, targets: Array, log_sum_exp: Array, grad: Array) -> Array:
    """Gradient of `cross_entropy`: grad (N,) -> (softmax - one-hot) * grad, (N, V); 0 for ignored
    rows.
    """
    xp = array_module(logits)
    grad = xp.where(targets >= 0, grad, grad.dtype.type(0))
    softmax = xp.exp(logits - log_sum_exp[:, None])
    result = softmax * grad[:, None]
    result[xp.arange(len(targets)), xp.maximum(targets, 0)] -= grad
    return result
