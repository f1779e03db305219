"""RMSNorm in plain array code (Zhang & Sennrich 2019, arXiv 1910.07467)."""

from minimtp.backend import Array, array_module


def rms_norm(x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    """y = x / sqrt(mean(x²) + eps) * weight, for each row.

    x (N, D), weight (D,) -> y (N, D), inverse_rms (N,). The backward needs inverse_rms.
    """
    xp = array_module(x)
    inverse_rms = 1 / xp.sqrt(xp.mean(x * x, axis=-1) + x.dtype.type(eps))  # (N,)
    return x * inverse_rms[:, None] * weight, inverse_rms


def rms_norm_backward(
    grad: Array, x: Array, weight: Array, inverse_rms: Array
) -> tuple[Array, Array]:
    """Gradients of `rms_norm`: grad (N, D) -> dx (N, D), dweight (D,).

    With n = x / rms and h = grad * weight:  dx = (h - n mean(h n)) / rms. The subtracted part is
    the share of the gradient that only rescales the row, and the norm removes the scale of a row.
    """
    inverse_rms = inverse_rms[:, None]
    normalized = x * inverse_rms  # (N, D)
    dnormalized = grad * weight
    rescaling = (dnormalized * normalized).mean(axis=-1, keepdims=True)  # (N, 1)
    dx = (dnormalized - normalized * rescaling) * inverse_rms
    dweight = (grad * normalized).sum(axis=0)
    return dx, dweight
