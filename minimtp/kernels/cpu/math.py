"""Functions of single floats and rows in a form that LLVM can vectorize: exp, maximum, dot product,
rounding to float16.

A float32's bits, read as an integer, are its sign, 8 bits of exponent and 23 of fraction. Without
the sign they grow with the magnitude, so floats can be compared as integers. Such comparisons
vectorize, while a floating-point maximum would first need permission to ignore NaN. An exponent can
be written by integer arithmetic, which makes powers of two cheap.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled, reassociate

ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
WITHOUT_SIGN = np.int32(0x7FFFFFFF)
SMALLEST_KEY = np.int32(-(2**31))
TWO_TO_112 = np.float32(2.0**112)
INFINITY_BITS = np.int32(0x7F800000)


@intrinsic
def bits_of(typing_context, x):
    """The bits of a float32 as an int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def float_of(typing_context, bits):
    """The float32 that has these bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def multiply_add(typing_context, a, b, c):
    """a * b + c of float32, in one instruction with one rounding where the processor has it, else
    in two.
    """

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 3)
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.f32"), arguments
        )

    return types.float32(types.float32, types.float32, types.float32), generate


# exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln(2) / 2. ln 2 is taken off in two parts,
# the first of which has few enough bits that n times it is exact (Cody & Waite 1980). The
# polynomial is Cephes' (S. Moshier, expf.c).
INVERSE_LN2 = np.float32(1.44269504088896341)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
P0, P1, P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
P3, P4, P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
ROUNDER = np.float32(
    12582912
)  # 1.5 * 2^23: added to a small float32 it leaves the rounded integer in the low bits
EXPONENT_SHIFT, EXPONENT_OF_ONE = np.int32(23), np.int32(127 << 23)
SMALLEST, LARGEST = np.float32(-87.33), np.float32(88.37)  # where 2^n is still a normal number


@compiled
def exponential(x):
    """exp(x) of a float32, relative error 1e-7; 0 below -87.33 (there exp(x) < 1.2e-38), constant
    above 88.37.
    """
    bounded = SMALLEST if x < SMALLEST else x  # written so that a NaN stays one
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
    """sum of a * b."""
    total = ZERO
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@compiled(fastmath=reassociate)
def exponentiate(row, shift, scale):
    """row = exp((row - shift) * scale); returns the sum. One array: two might overlap, which stops
    vectorization.
    """
    total = ZERO
    for j in range(row.shape[0]):
        value = exponential((row[j] - shift) * scale)
        row[j] = value
        total += value
    return total


@compiled(fastmath=reassociate)
def sum_of_exponentials(row, shift):
    """sum of exp(row - shift)."""
    total = ZERO
    for j in range(row.shape[0]):
        total += exponential(row[j] - shift)
    return total


@compiled
def largest(row):
    """The largest element of a row; a NaN without a sign counts as larger than infinity."""
    key = SMALLEST_KEY
    for j in range(row.shape[0]):
        key = max(key, in_order(bits_of(row[j])))
    return float_of(in_order(key))


@compiled
def in_order(bits):
    """Swaps a float's bits with an integer of the same order: negative floats count backwards,
    integers do not.
    """
    return np.int32(bits ^ (np.int32(bits >> np.int32(31)) & WITHOUT_SIGN))


@compiled
def as_float16(x):
    """x rounded to the nearest float16 (ties to even), as a float32; a NaN stays one."""
    bits = bits_of(x)
    magnitude = np.int32(bits & WITHOUT_SIGN)
    sign = np.int32(bits ^ magnitude)
    if magnitude < np.int32(
        0x38800000
    ):  # below 2^-14 float16 has fixed steps of 2^-24, as float32 has next to 0.5
        rounded = bits_of((float_of(magnitude) + HALF) - HALF)
    else:  # drop 13 of the 23 bits of the fraction
        odd = np.int32(np.int32(magnitude >> np.int32(13)) & np.int32(1))
        rounded = np.int32((magnitude + np.int32(0xFFF) + odd) & np.int32(~0x1FFF))
        if magnitude >= np.int32(
            0x477FF000
        ):  # 65520 is half way to 2^16, which is beyond the format: infinity, or a NaN
            rounded = max(magnitude, np.int32(0x7F800000))
    return float_of(np.int32(rounded | sign))


@compiled
def float16_as_float32(bits):
    """The float32 that equals the float16 with these bits."""
    magnitude = np.int32(bits) & np.int32(0x7FFF)
    # The same fraction under an exponent that is too small by 112, which the product makes up for,
    # for subnormals, too.
    shifted = np.int32(magnitude << 13)
    value = (
        float_of(shifted) * TWO_TO_112
        if magnitude < 0x7C00
        else float_of(np.int32(INFINITY_BITS | shifted))
    )
    return -value if np.int32(bits) & np.int32(0x8000) else value
