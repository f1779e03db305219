"""Matrix products of bfloat16 numbers, in plain array code.

bfloat16 is the upper half of a float32: the sign, 8 bits of exponent and 7 bits of fraction. It has
float32's range and 8 bits of precision. NumPy has no such type, so the numbers are stored as their
bits, in uint16. A conversion to bfloat16 rounds to the nearest number, ties to even, and keeps a
NaN. A conversion to float32 appends 16 zero bits.

The product of two bfloat16 numbers is exact in float32, and the sums are float32.
"""

from minimtp.backend import Array, array_module


def to_bfloat16(x: Array) -> Array:
    """Round x, float32 of any shape, to bfloat16. Returns the bits, uint16 of the same shape."""
    xp = array_module(x)
    bits = xp.ascontiguousarray(x).view(xp.uint32)
    upper = bits >> xp.uint32(16)
    # Adding 0x7FFF carries into the upper half if the lower half is above the middle. In the
    # middle, the lowest bit of the upper half decides, so that the result is even.
    rounded = bits + xp.uint32(0x7FFF) + (upper & xp.uint32(1)) >> xp.uint32(16)
    is_nan = (bits & xp.uint32(0x7FFFFFFF)) > xp.uint32(0x7F800000)
    return xp.where(is_nan, upper | xp.uint32(0x40), rounded).astype(xp.uint16)


def from_bfloat16(bits: Array) -> Array:
    """Return the float32 numbers with these upper halves, uint16 of any shape."""
    xp = array_module(bits)
    return (bits.astype(xp.uint32) << xp.uint32(16)).view(xp.float32)


def matmul_bfloat16(a: Array, b: Array) -> Array:
    """a @ b with float32 sums, for bfloat16 numbers stored as uint16. Transposed views are
    accepted.

    a (M, K), b (K, N) -> float32 (M, N). The order of a sum is undefined. Numbers below 2^-126 in
    magnitude, whether operands, products or sums, may count as 0: the instructions of processors
    for bfloat16 ignore them.
    """
    return from_bfloat16(a) @ from_bfloat16(b)
