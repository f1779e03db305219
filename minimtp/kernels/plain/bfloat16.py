"""Matrix products with operands rounded to bfloat16, in plain array code.

bfloat16 is the upper half of a float32: the sign, 8 bits of exponent and 7 bits of fraction. It has
float32's range and 8 bits of precision. A number is rounded to the nearest one, ties to even. A NaN
stays a NaN. The product of two bfloat16 numbers is exact in float32, and the sums are float32.
"""

from minimtp.backend import Array, array_module


def matmul_bfloat16(a: Array, b: Array) -> Array:
    """a @ b with both operands rounded to bfloat16 and float32 sums. Transposed views are accepted.

    a (M, K), b (K, N) float32 -> (M, N) float32. The order of a sum is undefined. Numbers below
    2^-126 in magnitude, whether operands, products or sums, may count as 0: the instructions of
    processors for bfloat16 ignore them.
    """
    return round_to_bfloat16(a) @ round_to_bfloat16(b)


def round_to_bfloat16(x: Array) -> Array:
    """Return x, float32 of any shape, rounded to numbers that bfloat16 has, as float32."""
    return from_bfloat16_bits(to_bfloat16_bits(x))


def to_bfloat16_bits(x: Array) -> Array:
    """Return x, float32 of any shape, rounded to bfloat16, as its bits: uint16."""
    xp = array_module(x)
    bits = xp.ascontiguousarray(x).view(xp.uint32)
    # Adding 0x7FFF carries into the upper half if the lower half is above the middle. In the
    # middle, the lowest bit of the upper half decides, so that the result is even.
    rounded = bits + (xp.uint32(0x7FFF) + (bits >> xp.uint32(16) & xp.uint32(1)))
    is_nan = (bits & xp.uint32(0x7FFFFFFF)) > xp.uint32(0x7F800000)
    upper = xp.where(is_nan, bits | xp.uint32(0x400000), rounded) >> xp.uint32(16)
    return upper.astype(xp.uint16)


def from_bfloat16_bits(bits: Array) -> Array:
    """Return the numbers of these bits, uint16 of any shape, as float32."""
    xp = array_module(bits)
    return (bits.astype(xp.uint32) << xp.uint32(16)).view(xp.float32)
