"""How a quantized matmul rounds its inputs: to int8 codes times a scale.

    int8         one scale per 32 neighbours, as the integer kernels do
    int8-token   one scale for all inputs that belong to a token
    none         no rounding

Training, packed modules and decoding all use `round_activations`, so they see the same numbers.
"""

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.kernels.plain.quantize import activation_scale

ACTIVATIONS = ("int8", "int8-token", "none")


def round_activations(x: Array, how: str) -> Array:
    """x (..., K) -> the values that a quantized matmul sees, (..., K). how: one of ACTIVATIONS."""
    if how == "none":
        return x
    rows = x.reshape(-1, x.shape[-1])  # (M, K)
    rounded = {"int8": _round_groups, "int8-token": _round_tokens}[how](rows)
    return rounded.reshape(x.shape)


def _round_groups(rows: Array) -> Array:
    return kernels.for_array(rows).fake_quantize_activations(rows)


def _round_tokens(rows: Array) -> Array:
    """As for groups, code = round half to even(x * (127 / max|x|)), with the whole row as one
    group.
    """
    xp = array_module(rows)
    exact = rows.astype(xp.float32, copy=False)
    inverse, scale = activation_scale(exact)  # (M, 1)
    codes = xp.rint(exact * inverse)  # (M, K)
    return (codes * scale).astype(rows.dtype, copy=False)
