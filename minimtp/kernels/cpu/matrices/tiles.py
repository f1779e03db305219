"""The innermost loops of the matrix products, written in LLVM's vector instructions.

A *tile* is the product of a few rows of activations with 32 output columns. Its running totals stay
in registers while it walks along K, so that each weight that is loaded serves all its rows, and
each activation all its columns. Compilers do not find this shape in a loop (they vectorize the
innermost one and keep totals in memory); here it is spelt out, as a Python loop that emits
instructions for every total. Where the processor has too few registers for all the totals, the
columns are done in parts, one after the other: those of floats on a stretch of the panel that stays
in the nearest cache, as each part would fetch a long panel anew.

A tile can ask the memory in advance, where the processor's own prefetching falls behind. That
differs. On an Intel server (Emerald Rapids) it falls behind from the first row: asking, into the
nearest cache, took one row times 75 MB of int4 from 9.5 to 6 ms. On AMD's Zen it keeps up with one
and two rows, which are slower when they ask, and not with more: the more rows, the more is computed
between two loads. There a tile that is soon back needs the weights in the nearest cache, and one
that computes longer, or in parts, does better with the second, since what waits there does not keep
the nearest one from
delivering: eight rows times 24 MB of float32 went from 1.20 to 1.10 ms, and with AVX-512 switched
off, together with the stretches, from 2.25 to 1.41.

Weights lie in *panels* of 32 output columns (`kernels/cpu/matrices/panels.py`), so that a vector
register holds the totals of neighbouring outputs and nothing is ever summed across a register,
except the bytes of a dword.

A quantized total is an exact integer while it runs along a group, then joins the float total:
    y += (w_scale * x_scale) * sum(w_code * x_code)
Instructions that multiply bytes want one factor unsigned, so codes are stored with an offset: 0..15
for q4_0, eight too large. The total makes up for it by starting at -8 sum(x_code). A total of
16-bit lanes may wrap around on its way; what it ends with fits, because |(code - 8) x_code| summed
over a lane's 16 products is at most 16 * 8 * 127. All ways of multiplying, AVX-512's, AVX2's and
the portable one, give the same integers, so the same results.

**A row's result does not depend on its neighbours**: for every tile shape a total is the same
sequence of operations along K, and every one is written explicitly (`llvm.fmuladd` becomes one
fused instruction wherever the processor has it).
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.kernels.cpu.matrices.panels import GROUP, PANEL, SCALE_BYTES
from minimtp.kernels.cpu.matrices.vectors import (
    BYTE_MATRIX,
    BYTES,
    DOTS,
    FLOAT,
    FLOAT_MATRIX,
    FLOAT_VECTOR,
    FLOATS,
    HALFS,
    INT32,
    INT_MATRIX,
    LANES,
    NEAREST,
    SECOND,
    ZEN,
    Emitter,
    fit,
)

VECTORS = PANEL // LANES  # of a panel
MOST_ROWS = LANES // 2  # of a tile
FLOAT_TOTALS, QUANTIZED_TOTALS = (
    (16, 8) if DOTS else (8, 8)
)  # that fit the registers beside what they are computed from
STRETCH = 128  # k's: 16 KB of a panel of floats
NEAR_AHEAD, FAR_AHEAD = 8192, 16384  # bytes of a panel; measured, like the next line
FEWEST_FETCHING, FAR_CACHE = (3, SECOND) if ZEN else (1, NEAREST)  # rows of a tile


def _parts(rows, most_totals):
    """The vectors of a panel in parts of so many that the totals of `rows` rows fit."""
    size = max(1, min(VECTORS, most_totals // rows))
    return [range(first, first + size) for first in range(0, VECTORS, size)]


def _fetch(emit, fetches, address, size, ahead, cache):
    """Ask the memory for `size` bytes that a tile reads `ahead` bytes of its panel later, unless
    `fetches` is 0.
    """
    with emit.builder.if_then(
        emit.builder.icmp_signed("!=", fetches, emit.number(0)), likely=False
    ):
        emit.prefetch(address, ahead, size, cache)


def float_tile(rows, of_columns=False):
    """Emits tile(x (T, n), row, w (any,), start, stride, depth, out, out_row, out_column, fetches).

    out[out_row + r, out_column + j] = sum over k < depth of x[row + r, k] * w[start + k * stride +
    j], for `rows` values of r and 32 of j. fetches: 1 to ask the memory for a panel in advance
    (stride 32), which tiles of fewer than FEWEST_FETCHING rows never do, 0 to leave that to the
    processor. of_columns: the rows are columns of x (n, T).
    """

    @intrinsic
    def tile(typing_context, x, row, w, start, stride, depth, out, out_row, out_column, fetches):
        if not fit((x, w, out), (FLOAT_MATRIX, FLOAT_VECTOR, FLOAT_MATRIX)):
            return None
        integer = types.intp
        kinds = (x, integer, w, integer, integer, integer, out, integer, integer, integer)

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args, arguments)
            x, row, w, start, stride, depth, out, out_row, out_column, fetches = emit.arrays
            if of_columns:
                x_rows, next_k = (
                    [emit.row(x, 0, 4, emit.plus(row, r)) for r in range(rows)],
                    emit.times(emit.width(x), 4),
                )
            else:
                x_rows, next_k = [emit.row(x, emit.plus(row, r), 4) for r in range(rows)], 4
            y_rows = [emit.row(out, emit.plus(out_row, r), 4, out_column) for r in range(rows)]
            weights, line = emit.item(w, start, 4), emit.times(stride, 4)
            parts = _parts(rows, FLOAT_TOTALS)
            ahead, cache = (
                (NEAR_AHEAD, NEAREST) if len(parts) == 1 and rows < 6 else (FAR_AHEAD, FAR_CACHE)
            )

            def walk(first, count, part, beginning):
                """Add to the totals of `part`, which begin with what `beginning` gives, `count` k's
                from `first` on.
                """
                totals = [[emit.variable(beginning(y, c)) for c in part] for y in y_rows]
                with cgutils.for_range(builder, count) as along_k:
                    k = emit.plus(first, along_k.index)
                    here = emit.advance(
                        weights, emit.plus(emit.times(k, line), 4 * LANES * part[0])
                    )
                    if rows >= FEWEST_FETCHING:
                        _fetch(emit, fetches, here, 4 * LANES * len(part), ahead, cache)
                    loaded = [emit.load(FLOATS, here, 4 * LANES * c) for c in range(len(part))]
                    for r in range(rows):
                        activation = emit.load_everywhere(FLOAT, x_rows[r], emit.times(k, next_k))
                        for total, weight in zip(totals[r], loaded, strict=True):
                            builder.store(
                                emit.multiply_add(activation, weight, builder.load(total)), total
                            )
                _store_totals(emit, totals, y_rows, part)

            zero = emit.constant(FLOATS, 0.0)
            if len(parts) == 1:
                walk(0, depth, parts[0], lambda y, c: zero)
                return context.get_dummy_value()
            stretches = emit.plus(
                1, builder.sdiv(emit.plus(depth, -1), emit.number(STRETCH))
            )  # one, empty, of depth 0
            with cgutils.for_range(builder, stretches) as along_stretches:
                first = emit.times(along_stretches.index, STRETCH)
                left = builder.sub(depth, first)
                count = builder.select(
                    builder.icmp_signed("<", left, emit.number(STRETCH)), left, emit.number(STRETCH)
                )
                begins = builder.icmp_signed("==", along_stretches.index, emit.number(0))
                for part in parts:
                    walk(
                        first,
                        count,
                        part,
                        lambda y, c: builder.select(
                            begins, zero, emit.load(FLOATS, y, 4 * LANES * c)
                        ),
                    )
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return tile


def _store_totals(emit, totals, y_rows, part):
    for y, row_totals in zip(y_rows, totals, strict=True):
        for c, total in zip(part, row_totals, strict=True):
            emit.store(emit.builder.load(total), y, 4 * LANES * c)


def quantized_tile(formats, rows):
    """Return tile(kind, codes (T, K), scales, starts (T, K/32), row, panels (P, bytes), panel, out,
    out_row, out_column, fetches).

    out[out_row + r, out_column + j] = row + r of the activations times output j of the panel, for
    `rows` values of r and 32 of j. fetches: as in `float_tile`. kind: a key of `formats`, constant
    in the caller, so that the format's instructions are chosen when the caller is compiled.
    """

    @intrinsic(prefer_literal=True)
    def tile(
        typing_context,
        key,
        x,
        scales,
        starts,
        row,
        panels,
        panel,
        out,
        out_row,
        out_column,
        fetches,
    ):
        if not isinstance(key, types.Literal):
            return None
        kind = formats[key.literal_value]
        group_bytes = SCALE_BYTES + kind.code_bytes
        expected = (kind.code_kind, FLOAT_MATRIX, INT_MATRIX, BYTE_MATRIX, FLOAT_MATRIX)
        if not fit((x, scales, starts, panels, out), expected):
            return None
        integer = types.intp
        kinds = (key, x, scales, starts, integer, panels, integer, out, integer, integer, integer)

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args[1:], arguments[1:])
            x, scales, starts, row, panels, panel, out, out_row, out_column, fetches = emit.arrays
            groups = emit.width(scales)
            # The number of steps is a constant, but LLVM must not know: it would unroll the loop
            # and spill the registers.
            steps = builder.sdiv(emit.width(x), emit.times(groups, GROUP // kind.steps))
            base = emit.row(panels, panel, 1)
            x_rows = [emit.row(x, emit.plus(row, r), kind.code_size) for r in range(rows)]
            scale_rows = [emit.row(scales, emit.plus(row, r), 4) for r in range(rows)]
            start_rows = [emit.row(starts, emit.plus(row, r), 4) for r in range(rows)]
            y_rows = [emit.row(out, emit.plus(out_row, r), 4, out_column) for r in range(rows)]
            for part in _parts(rows, QUANTIZED_TOTALS):
                totals = [
                    [emit.variable(emit.constant(FLOATS, 0.0)) for _ in part] for _ in range(rows)
                ]
                with cgutils.for_range(builder, groups) as along_groups:
                    group = along_groups.index
                    block = emit.advance(base, emit.times(group, group_bytes))
                    codes_block = emit.advance(block, SCALE_BYTES)
                    if rows >= FEWEST_FETCHING:
                        _fetch(emit, fetches, block, group_bytes, FAR_AHEAD, FAR_CACHE)
                    first_totals = [kind.start(emit, start_row, group) for start_row in start_rows]
                    sums = [[emit.variable(start) for _ in part] for start in first_totals]
                    with cgutils.for_range(builder, steps) as along_steps:
                        step = along_steps.index
                        here = emit.advance(codes_block, emit.times(step, 4 * PANEL))
                        codes = [
                            kind.unpack(emit, emit.load(BYTES, here, 4 * LANES * c)) for c in part
                        ]
                        x_offset = emit.times(
                            emit.plus(emit.times(group, kind.steps), step),
                            32 * kind.code_size // kind.steps,
                        )
                        for r in range(rows):
                            for piece in range(len(codes[0])):
                                four = emit.load_everywhere(
                                    INT32, x_rows[r], emit.plus(x_offset, 4 * piece)
                                )
                                for total, code in zip(sums[r], codes, strict=True):
                                    builder.store(
                                        kind.add_products(
                                            emit, builder.load(total), code[piece], four
                                        ),
                                        total,
                                    )
                    weight_scales = [
                        emit.float16_to_float32(emit.load(HALFS, block, 2 * LANES * c))
                        for c in part
                    ]
                    for r in range(rows):
                        x_scale = emit.load_everywhere(FLOAT, scale_rows[r], emit.times(group, 4))
                        for c, total in enumerate(totals[r]):
                            exact = builder.sitofp(
                                kind.finish(emit, builder.load(sums[r][c])), FLOATS
                            )
                            scale = builder.fmul(weight_scales[c], x_scale)
                            builder.store(
                                emit.multiply_add(exact, scale, builder.load(total)), total
                            )
                _store_totals(emit, totals, y_rows, part)
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return tile
