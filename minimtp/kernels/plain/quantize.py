"""Rounding to the grids of quantized weights and activations, in plain array code.

Values are quantized in groups of 32 along a row, and each group has one scale. Weights use ggml's
Q4_0 and Q8_0 (`kernels/ggml/blocks.py` has their arithmetic). Activations are rounded during each
product:

    code = round half to even(x * (127 / max|x|)),  scale = max|x| / 127

All of this is float32 arithmetic, even for float64 inputs. In another precision, training would see
other values than the exported ones. A group with max|x| below 4e-37, so that 127 / max|x|
overflows, becomes zeros.
"""

from minimtp.backend import Array, array_module
from minimtp.kernels.ggml import blocks as ggml

GROUP = ggml.GROUP_SIZE  # values that share a scale
MAX_WITHOUT_INVERSE = 127 * 2.0**-128  # at and below it 127 / max|x| is not a finite float32


def fake_quantize_q4_0(w: Array) -> Array:
    """Return the values that ggml's Q4_0 stores for w (N, K): (N, K) in w's dtype.

    Raises ValueError unless 32 divides K.
    """
    require_whole_groups(w)
    return ggml.decode(*ggml.encode_q4_0(w)).astype(w.dtype, copy=False)


def fake_quantize_q8_0(w: Array) -> Array:
    """Return the values that ggml's Q8_0 stores for w (N, K): (N, K) in w's dtype.

    Raises ValueError unless 32 divides K.
    """
    require_whole_groups(w)
    return ggml.decode(*ggml.encode_q8_0(w)).astype(w.dtype, copy=False)


def quantize_activations(x: Array) -> tuple[Array, Array]:
    """x (N, K) -> codes int8 (N, K) in -127..127, scales float32 (N, K/32).

    Raises ValueError unless 32 divides K.
    """
    require_whole_groups(x)
    xp = array_module(x)
    groups = x.astype(xp.float32, copy=False).reshape(len(x), -1, GROUP)
    inverse, scale = activation_scale(groups)  # (N, K/32, 1)
    codes = xp.rint(groups * inverse).astype(xp.int8)
    return codes.reshape(x.shape), scale[..., 0]


def activation_scale(groups: Array) -> tuple[Array, Array]:
    """Groups (..., n) float32 -> 127 / max|x|, or 0 if it overflows, and max|x| / 127: (..., 1)."""
    xp = array_module(groups)
    largest = xp.abs(groups).max(axis=-1, keepdims=True)
    usable = largest > xp.float32(MAX_WITHOUT_INVERSE)
    divisor = xp.where(usable, largest, xp.float32(1))
    inverse = xp.where(usable, xp.float32(127) / divisor, xp.float32(0))
    return inverse, largest / xp.float32(127)


def fake_quantize_activations(x: Array) -> Array:
    """Return the values of x (N, K) that a quantized product uses: codes * scales of
    `quantize_activations`.

    The result has x's dtype.
    """
    return ggml.decode(*quantize_activations(x)).astype(x.dtype, copy=False)


def require_whole_groups(x: Array) -> None:
    """Raise ValueError unless the rows of x divide into groups of 32."""
    if x.shape[-1] % GROUP:
        raise ValueError(f"rows of {x.shape[-1]} values do not divide into groups of {GROUP}")
