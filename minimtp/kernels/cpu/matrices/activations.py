"""Rounding activations to int8 for a product, in vector instructions. The results are bit-identical
to `plain.quantize_activations`.

    code = round half to even(x * (127 / max|x|)),  scale = max|x| / 127,   per group of 32

A verification step rounds its rows before every product, so rounding must be much faster than the
product. Magnitudes are compared as integers, because the bits of a float without its sign grow with
its magnitude. To round a number, 1.5 * 2^23 is added to it. The sum has no bits for a fraction, so
its low bits are the rounded integer, with ties to even as in IEEE addition.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.matrices.vectors import (
    CODE_MATRIX,
    FLOAT,
    FLOAT_MATRIX,
    FLOATS,
    INT32,
    INT_MATRIX,
    INTS,
    LANES,
    SHORT_MATRIX,
    Emitter,
    fit,
)
from minimtp.kernels.plain.quantize import GROUP, MAX_WITHOUT_INVERSE, require_whole_groups

VECTORS = GROUP // LANES
ROUNDER = 12582912.0  # 1.5 * 2^23
ROUNDER_BITS = 0x4B400000


def quantize_activations(x):
    require_whole_groups(x)
    x = np.ascontiguousarray(x)
    codes = np.empty(x.shape, np.int8)
    scales, starts = (
        np.empty((x.shape[0], x.shape[1] // GROUP), kind) for kind in (np.float32, np.int32)
    )
    _quantize(x, codes, scales, starts)
    return codes, scales


def _rounding(code_matrix, store_codes):
    """Return an intrinsic round(x (T, K), codes (T, K), scales (T, K/32), starts (T, K/32)).
    `store_codes` stores its codes and starts.
    """

    @intrinsic
    def round_rows(typing_context, x, codes, scales, starts):
        if not fit(
            (x, codes, scales, starts), (FLOAT_MATRIX, code_matrix, FLOAT_MATRIX, INT_MATRIX)
        ):
            return None

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args, arguments)
            x, codes, scales, starts = (emit.row(array, 0, 0) for array in emit.arrays)
            rows = builder.extract_value(emit.arrays[2].shape, 0)
            with cgutils.for_range(
                builder, emit.times(rows, emit.width(emit.arrays[2]))
            ) as along_groups:
                group = along_groups.index
                place = emit.advance(x, emit.times(group, 4 * GROUP))
                values = [emit.load(FLOATS, place, 4 * LANES * v) for v in range(VECTORS)]
                magnitude = _largest_magnitude(emit, values)
                usable = builder.fcmp_ordered(
                    ">", magnitude, ir.Constant(FLOAT, MAX_WITHOUT_INVERSE)
                )
                inverse = builder.fdiv(ir.Constant(FLOAT, 127.0), magnitude)
                inverse = emit.everywhere(builder.select(usable, inverse, ir.Constant(FLOAT, 0.0)))
                integers = [_rounded(emit, builder.fmul(value, inverse)) for value in values]
                emit.store(
                    builder.fdiv(magnitude, ir.Constant(FLOAT, 127.0)), scales, emit.times(group, 4)
                )
                store_codes(emit, integers, codes, starts, group)
            return context.get_dummy_value()

        return types.void(x, codes, scales, starts), generate

    return round_rows


def _largest_magnitude(emit, values):
    builder = emit.builder
    largest = None
    for value in values:
        bits = builder.and_(builder.bitcast(value, INTS), emit.constant(INTS, 0x7FFFFFFF))
        largest = bits if largest is None else emit.larger(largest, bits)
    largest = emit.folded(emit.larger, largest)
    return builder.bitcast(builder.extract_element(largest, ir.Constant(INT32, 0)), FLOAT)


def _rounded(emit, x):
    pushed = emit.builder.fadd(x, emit.constant(FLOATS, ROUNDER))
    return emit.builder.sub(emit.builder.bitcast(pushed, INTS), emit.constant(INTS, ROUNDER_BITS))


def _store_codes(emit, integers, codes, group):
    """Store the codes as bytes, in order. Return their sums over the vectors of a group."""
    place = emit.advance(codes, emit.times(group, GROUP))
    total = emit.constant(INTS, 0)
    for v, vector in enumerate(integers):
        emit.store(
            emit.builder.trunc(vector, ir.VectorType(ir.IntType(8), LANES)), place, LANES * v
        )
        total = emit.builder.add(total, vector)
    return total


def _store_for_shorts(emit, integers, codes, starts, group):
    """Store the codes as bytes, and the initial totals of `add_products_of_bytes` in `starts`. The
    low short of a start is -8 times the sum of the codes that are multiplied into low shorts. The
    high short is the same for high shorts.
    """
    builder = emit.builder
    total = _store_codes(emit, integers, codes, group)
    total = emit.folded(builder.add, total, 4)  # lane i: the sum of codes i, i + 4, i + 8, ...
    # Add lanes 0 and 1, and lanes 2 and 3.
    total = builder.add(total, emit.lanes(total, [lane ^ 1 for lane in range(LANES)]))
    total = builder.mul(total, emit.constant(INTS, -8))
    low, high = (builder.extract_element(total, ir.Constant(INT32, lane)) for lane in (0, 2))
    low = builder.and_(low, ir.Constant(INT32, 0xFFFF))
    high = builder.shl(high, ir.Constant(INT32, 16))
    emit.store(builder.or_(low, high), starts, emit.times(group, 4))


def _store_for_dots(emit, integers, codes, starts, group):
    """Store the codes as bytes, and minus their sum in `starts`."""
    total = emit.folded(emit.builder.add, _store_codes(emit, integers, codes, group))
    total = emit.builder.extract_element(emit.builder.neg(total), ir.Constant(INT32, 0))
    emit.store(total, starts, emit.times(group, 4))


def _store_shorts(emit, integers, codes, starts, group):
    """Store the codes as shorts. The order in each four is first, third, second, fourth. `starts`
    are not used: totals begin at zero.
    """
    place = emit.advance(codes, emit.times(group, 2 * GROUP))
    order = [four + k for four in range(0, LANES, 4) for k in (0, 2, 1, 3)]
    for v, vector in enumerate(integers):
        short = emit.builder.trunc(emit.lanes(vector, order), ir.VectorType(ir.IntType(16), LANES))
        emit.store(short, place, 2 * LANES * v)


round_to_bytes = _rounding(CODE_MATRIX, _store_for_shorts)
round_for_dots = _rounding(CODE_MATRIX, _store_for_dots)
round_to_shorts = _rounding(SHORT_MATRIX, _store_shorts)


@compiled
def _quantize(x, codes, scales, starts):
    round_to_bytes(x, codes, scales, starts)
