"""The integer part of a product of Q4_0 weights and int8 activations, in plain arrays.

The weights of a group are s (c - 8), with codes c in 0..15 and a scale s. Its activations are a q,
with codes q in -127..127 and a scale a. So the group adds this to an output:

    sum of s (c - 8) a q  =  s a sum of (c - 8) q

The last sum is an integer below 2**15 in magnitude. All kernels compute it exactly, each with its
own instructions. Only the product with the scales is rounded. Tests compare the kernels with the
sums of this file.
"""

from minimtp.backend import array_module


def group_sums(codes, packed):
    """Activation codes int8 (T, K) and packed weights uint8 (N, K/32, 16) -> int32 (T, N, K/32).

    For each group of 32, the sum of (c - 8) * q. Byte j holds c of weight j of the group in its low
    half, and c of weight j + 16 in its high half.
    """
    xp = array_module(packed)
    halves = codes.reshape(len(codes), 1, -1, 2, 16).astype(xp.int32)
    low, high = ((half.astype(xp.int32) - 8) for half in (packed & 15, packed >> 4))
    products = halves[..., 0, :] * low + halves[..., 1, :] * high  # (T, N, K/32, 16)
    return products.sum(axis=-1, dtype=xp.int32)
