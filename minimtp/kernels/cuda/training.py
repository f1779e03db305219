"""The kernels of a training step on the GPU. `kernels/plain` has a readable function of the same
name for each.
"""

from minimtp.backend import Array, array_module, is_array, numpy
from minimtp.kernels import plain
from minimtp.kernels.cuda.source import blocks_for, in_place, launch, whole
from minimtp.kernels.plain.quantize import GROUP, require_whole_groups

BLOCK = 256
SHARES = 64  # parts of the rows whose gradients of a norm's weight are summed separately


def row_threads(width: int) -> int:
    """Return the number of threads of a block that works on one row of `width` numbers.

    The number is a multiple of the warp size. It does not depend on the number of rows, so the bits
    of a row do not depend on other rows.
    """
    return min(BLOCK, 32 * blocks_for(width, 32))


def _each(name: str, size: int, *arguments: Array | float) -> None:
    """Launch a kernel with one thread per element."""
    launch("pointwise", name, (blocks_for(size, BLOCK),), BLOCK, *arguments)


def rms_norm(x, weight, eps):
    xp, (rows, width) = array_module(x), x.shape
    y, inverse_rms = xp.empty((rows, width), x.dtype), xp.empty(rows, x.dtype)
    launch(
        "norms",
        "rms_norm",
        (rows,),
        row_threads(width),
        *whole(x, weight),
        float(eps),
        width,
        y,
        inverse_rms,
    )
    return y, inverse_rms


def rms_norm_backward(grad, x, weight, inverse_rms):
    xp, (rows, width) = array_module(x), x.shape
    grad, x, weight = whole(grad, x, weight)
    dx = xp.empty_like(x)
    launch(
        "norms",
        "rms_norm_backward_x",
        (rows,),
        row_threads(width),
        grad,
        x,
        weight,
        inverse_rms,
        width,
        dx,
    )
    per_share = max(8, blocks_for(rows, SHARES))
    partial = xp.empty((blocks_for(rows, per_share), width), x.dtype)
    grid = blocks_for(width, 32), len(partial)
    launch(
        "norms",
        "rms_norm_backward_weight",
        grid,
        BLOCK,
        grad,
        x,
        inverse_rms,
        rows,
        width,
        per_share,
        partial,
    )
    return dx, partial.sum(axis=0)


def swiglu(gate_up):
    (gate_up,), width = whole(gate_up), gate_up.shape[1] // 2
    y = array_module(gate_up).empty((len(gate_up), width), gate_up.dtype)
    _each("swiglu", y.size, gate_up, numpy.int64(y.size), width, y)
    return y


def swiglu_backward(grad, gate_up):
    grad, gate_up = whole(grad, gate_up)
    result = array_module(grad).empty_like(gate_up)
    _each(
        "swiglu_backward", grad.size, grad, gate_up, numpy.int64(grad.size), grad.shape[1], result
    )
    return result


def gated_update(state, gate_candidate):
    state, gate_candidate = whole(state, gate_candidate)
    y = array_module(state).empty_like(state)
    _each("gated_update", y.size, state, gate_candidate, numpy.int64(y.size), y.shape[1], y)
    return y


def gated_update_backward(grad, state, gate_candidate):
    grad, state, gate_candidate = whole(grad, state, gate_candidate)
    xp, size = array_module(grad), numpy.int64(grad.size)
    dstate, dgate_candidate = xp.empty_like(state), xp.empty_like(gate_candidate)
    arguments = grad, state, gate_candidate, size, grad.shape[1], dstate, dgate_candidate
    _each("gated_update_backward", grad.size, *arguments)
    return dstate, dgate_candidate


def rotate(x, cos, sin):
    (x, cos, sin), (_, length, heads, head_dim) = whole(x, cos, sin), x.shape
    y, pairs = array_module(x).empty_like(x), x.size // 2
    _each("rotate", pairs, x, cos, sin, numpy.int64(pairs), length, heads, head_dim, y)
    return y


def causal_softmax(scores, scale):
    _masked("causal_softmax", scores, in_place(scores), scale)
    return scores


def causal_softmax_backward(grad, probabilities, scale):
    _masked("causal_softmax_backward", grad, in_place(grad), *whole(probabilities), scale)
    return grad


def _masked(name: str, scores: Array, *arguments: Array | float) -> None:
    *arrays, scale = arguments
    matrices, length, columns = scores.shape
    rows = matrices * length
    launch(
        "attention",
        name,
        (blocks_for(rows, 4),),
        128,
        *arrays,
        numpy.int64(rows),
        length,
        columns,
        float(scale),
    )


def cross_entropy(logits, targets):
    xp, (rows, vocabulary) = array_module(logits), logits.shape
    losses, log_sum_exp = xp.empty(rows, logits.dtype), xp.empty(rows, logits.dtype)
    targets = targets.astype(xp.int64, copy=False)
    launch(
        "loss",
        "cross_entropy",
        (rows,),
        row_threads(vocabulary),
        *whole(logits, targets),
        vocabulary,
        losses,
        log_sum_exp,
    )
    return losses, log_sum_exp


def cross_entropy_backward(logits, targets, log_sum_exp, grad):
    xp, (rows, vocabulary) = array_module(logits), logits.shape
    logits, targets, grad = whole(logits, targets.astype(xp.int64, copy=False), grad)
    result = xp.empty_like(logits)
    arguments = logits, targets, log_sum_exp, grad, vocabulary, result
    launch("loss", "cross_entropy_backward", (rows,), row_threads(vocabulary), *arguments)
    return result


def mixed_cross_entropy(logits, targets, text_grad, guide, guide_grad):
    if guide is not None:
        return plain.mixed_cross_entropy(logits, targets, text_grad, guide, guide_grad)
    losses, log_sum_exp = cross_entropy(logits, targets)
    logits[...] = cross_entropy_backward(logits, targets, log_sum_exp, text_grad)
    return losses


def embedding_backward(grad, tokens, out):
    xp, (vocabulary, width) = array_module(grad), out.shape
    tokens = tokens.astype(xp.int64, copy=False)
    order = xp.argsort(tokens, kind="stable").astype(xp.int64, copy=False)
    starts = xp.searchsorted(tokens[order], xp.arange(vocabulary + 1)).astype(xp.int64, copy=False)
    grid = vocabulary, blocks_for(width, 32)
    launch(
        "loss", "embedding_backward", grid, BLOCK, *whole(grad), order, starts, width, in_place(out)
    )


def adamw(
    parameters, gradients, first, second, decay_mask,
    learning_rate, beta1, beta2, eps, weight_decay, step, gradient_scale,
):  # fmt: skip
    """As in `kernels/plain`. `gradient_scale` may be a device array of one number, so that the host
    does not wait for it.
    """
    xp, size = array_module(parameters), parameters.size
    arrays = [in_place(array) for array in (parameters, *whole(gradients), first, second)]
    per_parameter = is_array(decay_mask) and decay_mask.ndim > 0
    mask = decay_mask if per_parameter else xp.full(size, decay_mask, parameters.dtype)
    scale = gradient_scale
    if not is_array(scale):
        scale = xp.full(1, scale, parameters.dtype)
    _each(
        "adamw", size, *arrays, *whole(mask), numpy.int64(size), float(learning_rate), float(eps),
        float(weight_decay), 1 / (1 - beta1**step), 1 / (1 - beta2**step), 1 - beta1, 1 - beta2,
        scale.astype(parameters.dtype, copy=False),
    )  # fmt: skip


def fake_quantize_q4_0(w):
    return _rounded("fake_quantize_q4_0", w)


def fake_quantize_q8_0(w):
    return _rounded("fake_quantize_q8_0", w)


def fake_quantize_activations(x):
    return _rounded("fake_quantize_activations", x)


def _rounded(name: str, x: Array) -> Array:
    require_whole_groups(x)
    (x,) = whole(x)
    y, groups = array_module(x).empty_like(x), x.size // GROUP
    launch("rounding", name, (blocks_for(groups, 8),), BLOCK, x, numpy.int64(groups), y)
    return y
