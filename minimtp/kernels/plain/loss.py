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
    """Gradient of `cross_entropy`: (softmax - one-hot) * grad, (N, V); 0 for ignored rows.

    logits (N, V), targets (N,) integers, -1 for ignored rows, log_sum_exp of each row's logits
    (N,), grad of each row's loss (N,). The arguments are not changed.
    """
    xp = array_module(logits)
    grad = xp.where(targets >= 0, grad, grad.dtype.type(0))
    softmax = xp.exp(logits - log_sum_exp[:, None])
    result = softmax * grad[:, None]
    result[xp.arange(len(targets)), xp.maximum(targets, 0)] -= grad
    return result


def mixed_cross_entropy(
    logits: Array, targets: Array, text_grad: Array, guide: Array | None, guide_grad: Array
) -> Array:
    """Two losses at once: their gradient IN PLACE of the logits, which take most of the memory.

    logits (N, V), overwritten. targets (N,) int64, -1 is ignored. guide (N, V): the logits of a
    model to follow, or None. text_grad, guide_grad (N,): the gradients of both losses, the
    cross-entropy with the targets and the divergence from the guide, sum_v q_v (log q_v - log
    softmax_v) with q = softmax(guide). The logits become

        text_grad (softmax - one-hot) + guide_grad (softmax - q)

    Returns the cross-entropy with the targets (N,) in nats.
    """
    xp = array_module(logits)
    losses, log_sum_exp = cross_entropy(logits, targets)
    gradient = cross_entropy_backward(logits, targets, log_sum_exp, text_grad)
    if guide is not None:
        softmax = xp.exp(logits - log_sum_exp[:, None])
        q = xp.exp(guide - cross_entropy(guide, targets)[1][:, None])
        gradient += (softmax - q) * guide_grad[:, None]
    logits[...] = gradient
    return losses
