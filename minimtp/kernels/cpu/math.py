"""exp, maximum, dot product and rounding to float16, written so that LLVM can vectorize them.

The bits of a float32 are its sign, 8 bits of exponent and 23 bits of fraction. As an integer, the
bits without the sign grow with the magnitude, so floats can be compared as integers. LLVM
vectorizes integer comparisons. It vectorizes a floating-point maximum only if it may ignore NaN.
Integer arithmetic can also set the exponent, which makes powers of two cheap.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate

ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
INFINITY = np.float32(np.inf)
WITHOUT_SIGN = np.int32(0x7FFFFFFF)
MIN_KEY = np.int32(-(2**31))
TWO_TO_112, TWO_TO_24 = np.float32(2.0**112), np.float32(2.0**24)
INFINITY_BITS = np.int32(0x7F800000)


@intrinsic
def bits_of(typing_context, x):
    """Return the bits of a float32 as an int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def float_of(typing_context, bits):
    """Return the float32 that has these bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def multiply_add(typing_context, a, b, c):
    """Return a * b + c for float32 numbers. It is one instruction with one rounding if the
    processor has one, and two instructions otherwise.
    """

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 3)
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.f32"), arguments
        )

    return types.float32(types.float32, types.float32, types.float32), generate


# exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln(2) / 2. n * ln 2 is subtracted in two
# parts. The first part of ln 2 has few bits, so that its product with n is exact (Cody & Waite
# 1980). The polynomial comes from Cephes (S. Moshier, expf.c).
INVERSE_LN2 = np.float32(1.44269504088896341)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
P0, P1, P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
P3, P4, P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
# 1.5 * 2^23. The sum of this and a small float32 has the rounded integer in its low bits.
ROUNDER = np.float32(12582912)
EXPONENT_SHIFT, EXPONENT_OF_ONE = np.int32(23), np.int32(127 << 23)
SMALLEST, LARGEST = np.float32(-87.33), np.float32(88.37)  # between these, 2^n is a normal number


@compiled
def inverse_logistic(x):
    """Return 1 / sigmoid(x) = 1 + exp(-x), infinite where the sigmoid is below 4e-39."""
    return INFINITY if x < -LARGEST else ONE + exponential(-x)


@compiled
def exponential(x):
    """Return exp(x) for a float32 x, with a relative error of 1e-7. The result is 0 below -87.33,
    where exp(x) < 1.2e-38, and constant above 88.37.
    """
    bounded = SMALLEST if x < SMALLEST else x  # this form of the comparison keeps NaN
    bounded = LARGEST if bounded > LARGEST else bounded
    shifted = multiply_add(bounded, INVERSE_LN2, ROUNDER)
    n = shifted - ROUNDER
    r = multiply_add(n, -LN2_LOW, multiply_add(n, -LN2_HIGH, bounded))
    polynomial = multiply_add(multiply_add(multiply_add(P0, r, P1), r, P2), r, P3)
    polynomial = multiply_add(multiply_add(polynomial, r, P4), r, P5)
    power = float_of(np.int32((bits_of(shifted) << EXPONENT_SHIFT) + EXPONENT_OF_ONE))
    return ZERO if x < SMALLEST else (multiply_add(polynomial, r * r, r) + ONE) * power


@compiled(fastmath=reassociate)
def dot(a, b):
    """Return the sum of a * b."""
    total = ZERO
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@compiled(fastmath=reassociate)
def exponentiate(row, shift, scale):
    """Compute row = exp((row - shift) * scale) in place and return the sum. Input and output are
    the same array, because LLVM does not vectorize a loop over two arrays that might overlap.
    """
    total = ZERO
    for j in range(row.shape[0]):
        value = exponential((row[j] - shift) * scale)
        row[j] = value
        total += value
    return total


@compiled(fastmath=reassociate)
def sum_of_exponentials(row, shift):
    """Return the sum of exp(row - shift)."""
    total = ZERO
    for j in range(row.shape[0]):
        total += exponential(row[j] - shift)
    return total


@compiled
def largest(row):
    """Return the largest element of a row. A NaN without a sign counts as larger than infinity."""
    key = MIN_KEY
    for j in range(row.shape[0]):
        key = max(key, in_order(bits_of(row[j])))
    return float_of(in_order(key))


@compiled
def in_order(bits):
    """Convert the bits of a float to an integer with the same order as the floats, or back. The
    bits of negative floats decrease as the float increases, so they are inverted.
    """
    return np.int32(bits ^ (np.int32(bits >> np.int32(31)) & WITHOUT_SIGN))


@compiled
def as_float16(x):
    """Round x to the nearest float16, ties to even. Return a float32. A NaN stays a NaN."""
    bits = bits_of(x)
    magnitude = np.int32(bits & WITHOUT_SIGN)
    sign = np.int32(bits ^ magnitude)
    # Below 2^-14, float16 has a fixed step of 2^-24, which is the step of float32 just above 0.5.
    if magnitude < np.int32(0x38800000):
        rounded = bits_of((float_of(magnitude) + HALF) - HALF)
    else:  # drop 13 of the 23 bits of the fraction
        odd = np.int32(np.int32(magnitude >> np.int32(13)) & np.int32(1))
        rounded = np.int32((magnitude + np.int32(0xFFF) + odd) & np.int32(~0x1FFF))
        # From 65520 on, float16 rounds to infinity: 2^16 is not representable. NaN stays NaN.
        if magnitude >= np.int32(0x477FF000):
            rounded = max(magnitude, np.int32(0x7F800000))
    return float_of(np.int32(rounded | sign))


@compiled
def float16_bits(x):
    """Return the bits, uint16, of x rounded to float16; magnitudes above 65,504 become 65,504."""
    rounded = bits_of(as_float16(x))
    magnitude = np.int32(rounded & WITHOUT_SIGN)
    if magnitude > INFINITY_BITS:
        return np.uint16(0x7E00)  # NaN
    if magnitude < np.int32(0x38800000):  # below 2^-14: a multiple of 2^-24
        bits = np.int32(float_of(magnitude) * TWO_TO_24)
    else:
        bits = min(np.int32(magnitude >> 13) - np.int32(112 << 10), np.int32(0x7BFF))
    return np.uint16(bits | (np.int32(rounded >> 16) & np.int32(0x8000)))


@compiled
def float16_as_float32(bits):
    """Return the float16 with these bits as a float32."""
    magnitude = np.int32(bits) & np.int32(0x7FFF)
    # Shifting keeps the fraction, but the exponent is too small by 112. Multiplying by 2^112
    # corrects it, also for subnormal numbers.
    shifted = np.int32(magnitude << 13)
    value = (
        float_of(shifted) * TWO_TO_112
        if magnitude < 0x7C00
        else float_of(np.int32(INFINITY_BITS | shifted))
    )
    return -value if np.int32(bits) & np.int32(0x8000) else value
