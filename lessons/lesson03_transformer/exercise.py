"""Exercises of lesson 3. Fill in the bodies, then run:

pytest --mine tests/kernels/test_attention.py
"""

from minimtp.backend import Array, array_module  # noqa: F401  (array_module returns numpy or cupy)


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


def rms_norm_backward(
    grad: Array, x: Array, weight: Array, inverse_rms: Array
) -> tuple[Array, Array]:
    """Gradients of `rms_norm`: grad (N, D) -> dx (N, D), dweight (D,).

    With n = x / rms and h = grad * weight:  dx = (h - n mean(h n)) / rms. The subtracted part is
    the share of the gradient that only rescales the row, and the norm removes the scale of a row.
    """
    raise NotImplementedError("lesson 3: return the gradients of x and of the weight")
