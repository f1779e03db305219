"""Arguments for every training kernel, and the scale of its rounding errors."""

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.plain.cache import KEY_PANEL, key_panels
from tests.kernels.both import normal


def samples(rng):
    """Return arguments for every training kernel.

    The sizes are rarely multiples of a vector register. There are rows of one and ignored targets.
    """
    rows, width = int(rng.integers(1, 9)), 2 * int(rng.integers(1, 40))
    x, weight, grad = normal(rng, rows, width), normal(rng, width), normal(rng, rows, width)
    gate_up = normal(rng, rows, 2 * width, spread=8)
    before = int(rng.integers(0, 5))
    scores = normal(rng, 3, rows, before + rows, spread=4)
    targets = rng.integers(-1, width, rows)
    log_sum_exp = plain.cross_entropy(4 * x, targets)[1]
    angles = normal(rng, rows, width // 2)
    moments = normal(rng, width, spread=0.1), normal(rng, width) ** 2
    mask = (rng.random(width) < 0.5).astype(np.float32)
    cache = rows + int(rng.integers(0, 20))
    return {
        "rms_norm": (x, weight, 1e-5),
        "rms_norm_backward": (grad, x, weight, plain.rms_norm(x, weight, 1e-5)[1]),
        "swiglu": (gate_up,),
        "swiglu_backward": (grad, gate_up),
        "gated_update": (x, gate_up),
        "gated_update_backward": (grad, x, gate_up),
        "rotate": (normal(rng, 2, rows, 3, width), np.cos(angles), np.sin(angles)),
        "causal_softmax": (scores, 0.5),
        "causal_softmax_backward": (
            normal(rng, *scores.shape), plain.causal_softmax(scores.copy(), 0.5), 0.5,
        ),
        "cross_entropy": (4 * x, targets),
        "cross_entropy_backward": (4 * x, targets, log_sum_exp, grad[:, 0].copy()),
        "mixed_cross_entropy": (
            4 * x, targets, grad[:, 0].copy(), normal(rng, rows, width, spread=4),
            grad[:, -1].copy(),
        ),
        "embedding_backward": (grad, rng.integers(0, 3, rows), normal(rng, 3, width)),
        "adamw": (*normal(rng, 2, width), *moments, mask, 1e-2, 0.9, 0.95, 1e-8, 0.1, 3, 0.7),
        "cached_attention": (
            normal(rng, rows, 4, width), normal(rng, 2, key_panels(cache), width, KEY_PANEL),
            normal(rng, cache, 2, width),
            int(rng.integers(0, cache - rows + 1)), 0.5,
        ),
    }  # fmt: skip


def terms(name, arguments):
    """Return the largest magnitude of the terms whose difference the result is.

    It is 0 if nothing cancels.

    The terms are rounded before they are subtracted. So a small difference of large terms has a
    rounding error of the size of the terms, and the tolerance must be relative to them.
    """
    largest = [np.abs(a).max() if isinstance(a, np.ndarray) else None for a in arguments]
    if name == "rms_norm_backward":
        grad, _, weight, inverse_rms = largest
        return grad * weight * inverse_rms
    if name == "swiglu_backward":  # grad * up * (s + gate * s - gate * s²), with a sigmoid s <= 1
        grad, gate_up = largest
        return grad * gate_up * max(1, gate_up)
    if name == "gated_update_backward":
        # grad - grad * s, and grad * (candidate - state) * (s - s²)
        grad, state, gate_candidate = largest
        return grad * max(1, state + gate_candidate)
    if name in ("cross_entropy", "mixed_cross_entropy"):
        # log(sum) + max - logit; log turns a relative error into an absolute one
        return max(1, largest[0])
    position = {"causal_softmax_backward": 0, "cross_entropy_backward": 3}.get(name)
    return 0 if position is None else largest[position]


def results(function, arguments, kind):
    """Call the function on copies. Return its result, or its array arguments if it returns None."""
    arguments = [
        a.astype(kind if a.dtype == np.float32 else a.dtype, copy=True)
        if isinstance(a, np.ndarray)
        else a
        for a in arguments
    ]
    result = function(*arguments)
    if result is None:
        result = tuple(a for a in arguments if isinstance(a, np.ndarray))
    return result if isinstance(result, tuple) else (result,)
