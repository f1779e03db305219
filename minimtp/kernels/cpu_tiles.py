"""The innermost loops of the matrix products, written in LLVM's vector instructions.

A *tile* is the product of a few rows of activations with a few vectors of output columns. Its running totals stay in
registers while it walks along K, so that each weight that is loaded serves all its rows, and each activation all its
columns. Compilers do not find this shape in a loop (they vectorize the innermost one and keep totals in memory); here
it is spelt out, as a Python loop that emits instructions for `rows` x `vectors` totals.

Weights lie in *panels* of 32 output columns: neighbouring outputs are neighbours in memory, so that a vector register
holds the totals of 8 outputs and nothing is ever summed across a register, except two neighbouring shorts below.

    f32     for each k: 32 floats                                                           128 bytes
    q4_0    for each group of 32 k's: 32 float16 scales, then 4 steps of 8 k's:             64 + 512 bytes
            for each output a dword, whose byte b holds k = 8 step + b (low nibble) and 8 step + 4 + b (high)
    q8_0    for each group of 32 k's: 32 float16 scales, then 8 steps of 4 k's:             64 + 1024 bytes
            for each output a dword, whose byte b holds k = 4 step + b

A quantized total is an exact integer while it runs along a group, then joins the float total:
    y += (w_scale * x_scale) * sum(w_code * x_code)
Codes of q4_0 are stored as 0..15, eight too large. A total of 16-bit lanes therefore starts at -8 sum(x_code); what it
passes through may wrap around, what it ends with fits, because |(code - 8) x_code| summed over a lane's 16 products is
at most 16 * 8 * 127. Both ways of multiplying, AVX2's and the portable one, give the same integers, so the same
results.

**A row's result does not depend on its neighbours**: for every tile shape a total is the same sequence of operations
along K, and every one is written explicitly (`llvm.fmuladd` becomes one fused instruction wherever the processor has
it).
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.kernels.cpu_vectors import (
    BYTE_MATRIX,
    BYTES,
    CODE_MATRIX,
    FLOAT,
    FLOAT_MATRIX,
    FLOATS,
    HALFS,
    INT32,
    INT_MATRIX,
    INTS,
    LANES,
    SHORT_MATRIX,
    SHORTS,
    Emitter,
    fit,
)

PANEL = 32  # output columns of a panel
GROUP = 32  # values that share a scale
SCALE_BYTES = 2 * PANEL


def float_tile(rows, vectors):
    """Emits tile(x (T, K), row, panels (P, K*128 bytes), panel, first, out, out_row, out_column).

    out[out_row + r, out_column + j] = sum over k of x[row + r, k] * (output first + j of the panel's weights at k), for
    `rows` values of r and 8 * `vectors` of j.
    """

    @intrinsic
    def tile(typing_context, x, row, panels, panel, first, out, out_row, out_column):
        if not fit((x, panels, out), (FLOAT_MATRIX, BYTE_MATRIX, FLOAT_MATRIX)):
            return None
        integer = types.intp
        kinds = (x, integer, panels, integer, integer, out, integer, integer)

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args, arguments)
            x, row, panels, panel, first, out, out_row, out_column = emit.arrays
            weights = emit.advance(emit.row(panels, panel, 1), emit.times(first, 4))
            x_rows = [emit.row(x, emit.plus(row, r), 4) for r in range(rows)]
            totals = [[emit.variable(emit.constant(FLOATS, 0.0)) for _ in range(vectors)] for _ in range(rows)]
            with cgutils.for_range(builder, emit.width(x)) as along_k:
                here = emit.advance(weights, emit.times(along_k.index, 4 * PANEL))
                loaded = [emit.load(FLOATS, here, 32 * c) for c in range(vectors)]
                for r in range(rows):
                    activation = emit.load_everywhere(FLOAT, x_rows[r], emit.times(along_k.index, 4))
                    for c in range(vectors):
                        total = emit.multiply_add(activation, loaded[c], builder.load(totals[r][c]))
                        builder.store(total, totals[r][c])
            _store_totals(emit, totals, out, out_row, out_column)
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return tile


def _store_totals(emit, totals, out, out_row, out_column):
    for r, row_totals in enumerate(totals):
        y = emit.row(out, emit.plus(out_row, r), 4, out_column)
        for c, total in enumerate(row_totals):
            emit.store(emit.builder.load(total), y, 32 * c)


class _Q4:
    """What is particular to q4_0: `x` are int8 codes, totals run in shorts and begin as `cpu_activations.py` says."""

    code_bytes, steps, x_kind, x_bytes = 512, 4, CODE_MATRIX, 1

    @staticmethod
    def start(emit, start_row, group):
        return emit.builder.bitcast(emit.load_everywhere(INT32, start_row, emit.times(group, 4)), SHORTS)

    @staticmethod
    def unpack(emit, packed):
        b, nibble = emit.builder, emit.constant(BYTES, 15)
        high = b.bitcast(b.lshr(b.bitcast(packed, SHORTS), emit.constant(SHORTS, 4)), BYTES)
        return b.and_(packed, nibble), b.and_(high, nibble)

    @staticmethod
    def add_products(emit, total, codes, x):
        return emit.add_products_of_bytes(total, codes, x)

    @staticmethod
    def finish(emit, total):
        return emit.products_of_shorts(total, emit.constant(SHORTS, 1))


class _Q8:
    """What is particular to q8_0: `x` are shorts in the order of `cpu_activations.py`, totals run in ints from zero."""

    code_bytes, steps, x_kind, x_bytes = 1024, 8, SHORT_MATRIX, 2

    @staticmethod
    def start(emit, start_row, group):
        return emit.constant(INTS, 0)

    @staticmethod
    def unpack(emit, packed):
        packed = emit.builder.bitcast(packed, SHORTS)
        return emit.sign_extended_low_half(packed, 8), emit.builder.ashr(packed, emit.constant(SHORTS, 8))

    @staticmethod
    def add_products(emit, total, codes, x):
        return emit.builder.add(total, emit.products_of_shorts(codes, emit.builder.bitcast(x, SHORTS)))

    @staticmethod
    def finish(emit, total):
        return total


def _quantized_tile(kind, rows, vectors):
    """Emits tile(x (T, K) codes, scales, starts (T, K/32), row, panels, panel, first, out, out_row, out_column)."""
    group_bytes = SCALE_BYTES + kind.code_bytes

    @intrinsic
    def tile(typing_context, x, scales, starts, row, panels, panel, first, out, out_row, out_column):
        expected = (kind.x_kind, FLOAT_MATRIX, INT_MATRIX, BYTE_MATRIX, FLOAT_MATRIX)
        if not fit((x, scales, starts, panels, out), expected):
            return None
        integer = types.intp
        kinds = (x, scales, starts, integer, panels, integer, integer, out, integer, integer)

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args, arguments)
            x, scales, starts, row, panels, panel, first, out, out_row, out_column = emit.arrays
            groups = emit.width(scales)
            # The number of steps is a constant, but LLVM must not know: it would unroll the loop and spill the
            # registers.
            steps = builder.sdiv(emit.width(x), emit.times(groups, GROUP // kind.steps))
            base = emit.row(panels, panel, 1)
            x_rows = [emit.row(x, emit.plus(row, r), kind.x_bytes) for r in range(rows)]
            scale_rows = [emit.row(scales, emit.plus(row, r), 4) for r in range(rows)]
            start_rows = [emit.row(starts, emit.plus(row, r), 4) for r in range(rows)]
            totals = [[emit.variable(emit.constant(FLOATS, 0.0)) for _ in range(vectors)] for _ in range(rows)]
            with cgutils.for_range(builder, groups) as along_groups:
                group = along_groups.index
                block = emit.advance(base, emit.times(group, group_bytes))
                codes_block = emit.advance(block, emit.plus(SCALE_BYTES, emit.times(first, 4)))
                first_totals = [kind.start(emit, start_row, group) for start_row in start_rows]
                sums = [[emit.variable(start) for _ in range(vectors)] for start in first_totals]
                with cgutils.for_range(builder, steps) as along_steps:
                    step = along_steps.index
                    here = emit.advance(codes_block, emit.times(step, 4 * PANEL))
                    x_offset = emit.times(emit.plus(emit.times(group, kind.steps), step), 8)
                    codes = [kind.unpack(emit, emit.load(BYTES, here, 32 * c)) for c in range(vectors)]
                    for r in range(rows):
                        for half in range(2):
                            four = emit.load_everywhere(INT32, x_rows[r], emit.plus(x_offset, 4 * half))
                            for c in range(vectors):
                                total = kind.add_products(emit, builder.load(sums[r][c]), codes[c][half], four)
                                builder.store(total, sums[r][c])
                scales_block = emit.advance(block, emit.times(first, 2))
                weight_scales = [
                    emit.float16_to_float32(emit.load(HALFS, scales_block, 2 * LANES * c)) for c in range(vectors)
                ]
                for r in range(rows):
                    x_scale = emit.load_everywhere(FLOAT, scale_rows[r], emit.times(group, 4))
                    for c in range(vectors):
                        exact = builder.sitofp(kind.finish(emit, builder.load(sums[r][c])), FLOATS)
                        scale = builder.fmul(weight_scales[c], x_scale)
                        builder.store(emit.multiply_add(exact, scale, builder.load(totals[r][c])), totals[r][c])
            _store_totals(emit, totals, out, out_row, out_column)
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return tile


def q4_0_tile(rows, vectors):
    return _quantized_tile(_Q4, rows, vectors)


def q8_0_tile(rows, vectors):
    return _quantized_tile(_Q8, rows, vectors)
