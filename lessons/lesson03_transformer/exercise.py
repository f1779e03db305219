"""Exercises of lesson 3. Fill in the bodies, then run:

pytest --mine tests/kernels/test_attention.py
"""

from minimtp.backend import array_module  # noqa: F401  (returns numpy or cupy)


def rotate(x, cos, sin):
    """Rotary positions (Su et al. 2021) on adjacent pairs: (a, b) -> (a cos - b sin, a sin + b cos).

    x (B, T, H, C), cos and sin (T, C/2) -> new array (B, T, H, C). The inverse is `rotate(x, cos, -sin)`, and so is the
    backward: a rotation's transpose is its inverse.
    """
    raise NotImplementedError("lesson 3: rotate every pair (even, odd) by its angle")


def causal_softmax_backward(grad, probabilities, scale):
    """Gradient of `causal_softmax` for the scores: grad (M, L, S) -> (M, L, S). Works IN PLACE: overwrites `grad`."""
    raise NotImplementedError("lesson 3: p * (g - sum(p * g)) * scale for every row, in place")


def rms_norm_backward(grad, x, weight, inverse_rms):
    """Gradients of `rms_norm`: grad (N, D) -> dx (N, D), dweight (D,)."""
    raise NotImplementedError("lesson 3: return the gradients of x and of the weight")
