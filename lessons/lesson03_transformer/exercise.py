"""Exercises of lesson 3. Fill in the bodies, then run:

pytest --mine tests/kernels/decoding/test_attention.py
"""

from minimtp.backend import Array, array_module  # noqa: F401  (array_module returns numpy or cupy)
from minimtp.kernels.plain.cache import joined_panels  # noqa: F401  (for your cached_attention)


def cached_attention(q: Array, keys: Array, values: Array, start: int, scale: float) -> Array:
    """Attention of T new tokens over all positions so far: token t attends to positions 0..start+t.

    q (T, H, C), keys (G, N, C, P) in panels of P positions, values (S, G, C), S >= start + T,
    N P >= start + T, scale > 0 -> (T, H, C).
    Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245): query head h uses key/value
    head h // (H // G). The scores are the dot products times `scale`. Positions after start+T-1
    do not influence the result.
    """
    raise NotImplementedError(
        "lesson 3: scores, causal mask, softmax and the weighted sum of values, for every head"
    )


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864) on adjacent pairs:

        (a, b) -> (a cos - b sin, a sin + b cos),  the complex product (a + ib) (cos + i sin)

    x (B, T, H, C), cos and sin (T, C/2) -> new array (B, T, H, C). The inverse is `rotate(x, cos,
    -sin)`. It is also the backward pass, because the transpose of a rotation is its inverse.
    """
    raise NotImplementedError("lesson 3: rotate every pair (even, odd) by its angle")


def causal_softmax_backward(grad: Array, probabilities: Array, scale: float) -> Array:
    """Gradient of `causal_softmax`: p * (grad - sum(grad * p)) * scale, for each row.

    grad and probabilities (M, L, S) -> (M, L, S). Works IN PLACE: overwrites `grad` and returns it.
    """
    raise NotImplementedError("lesson 3: p * (g - sum(p * g)) * scale for every row, in place")
