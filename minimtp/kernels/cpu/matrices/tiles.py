"""The innermost loops of the matrix products, written in LLVM's vector instructions.

**Tiles.** A *tile* is the product of a few rows of activations with 32 output columns. Its totals
stay in registers while the loop goes along K. So each loaded weight is used for all rows of the
tile, and each activation for all columns. A compiler would vectorize the innermost loop and keep
the totals in memory. Here, a Python loop emits the instructions for every total instead. If the
processor has too few registers for all totals, the columns are computed in several parts. Each part
of a float tile would read a long panel from memory again. So float tiles process the panel in
stretches that fit into the L1 cache.

**Prefetching.** A tile can prefetch weights. Whether this helps depends on the processor. On an
Intel server (Emerald Rapids), the processor's own prefetching is too slow even for one row.
Prefetching into the L1 cache reduced the time of one row times 75 MB of int4 from 9.5 to 6 ms. On
AMD's Zen, the processor's own prefetching is fast enough for one and two rows, and ours makes them
slower. With more rows, more is computed between two loads, and the processor is too slow. Short
tiles need the weights in the L1 cache. Tiles that compute longer, or in parts, are faster if the
weights are prefetched into the L2 cache, because that does not delay reads from the L1 cache. The
time of eight rows times 24 MB of float32 fell from 1.20 to 1.10 ms. With AVX-512 switched off it
fell from 2.25 to 1.41 ms, together with the stretches.

**Panels.** Weights are stored in *panels* of 32 output columns (panels.py). A vector register holds
the totals of neighbouring outputs, so no sum goes across a register, except for the bytes of a
dword.

**Quantized tiles.** The total of a group is an exact integer. It is then added to the float total:

    y += (w_scale * x_scale) * sum(w_code * x_code)

Instructions that multiply bytes need one unsigned operand. So codes of q4_0 are stored with 8
added, as 0..15, and the total starts at -8 sum(x_code) to correct for that. A 16-bit total may
overflow in between, but its final value fits: |(code - 8) x_code|, summed over the 16 products of a
lane, is at most 16 * 8 * 127. The variants for AVX-512, for AVX2 and for other processors compute
the same integers, so their results are identical.

Formats with a minimum (q4_1) add it as one more product:

    y += (w_scale * x_scale) * sum(w_code * x_code);   y += w_minimum * (x_scale * sum(x_code))

**The result of a row does not depend on the other rows.** In every tile shape, a total is the same
sequence of explicit operations along K. (`llvm.fmuladd` becomes one fused instruction if the
processor has it.)
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.kernels.cpu.matrices.panels import GROUP, PANEL, SCALE_BYTES
from minimtp.kernels.cpu.matrices.vectors import (
    BYTE_MATRIX,
    CODE_VECTOR,
    CODES,
    DOTS,
    FLOAT,
    FLOAT_MATRIX,
    FLOAT_VECTOR,
    FLOATS,
    HALF_VECTOR,
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

VECTORS = PANEL // LANES  # in a panel
MAX_TILE_ROWS = LANES // 2  # maximum number of rows in a tile
# The number of totals for which there are registers, besides those for the operands.
FLOAT_TOTALS, QUANTIZED_TOTALS = (16, 8) if DOTS else (8, 8)
STRETCH = 128  # values of k: 16 KB of a panel of floats
# Bytes of a panel between a load and the prefetched address. The values were measured.
NEAR_AHEAD, FAR_AHEAD = 8192, 16384
# Minimum number of rows for which a tile prefetches, and the cache for FAR_AHEAD. Also measured.
FEWEST_FETCHING, FAR_CACHE = (3, SECOND) if ZEN else (1, NEAREST)


def _parts(rows, max_totals):
    """Split the vectors of a panel into parts. The registers hold the totals of `rows` rows for one
    part.
    """
    size = max(1, min(VECTORS, max_totals // rows))
    return [range(first, first + size) for first in range(0, VECTORS, size)]


def _fetch(emit, fetches, address, size, ahead, cache):
    """Prefetch `size` bytes: nothing if `fetches` is 0, those `ahead` bytes after the address if it
    is 1, otherwise those that many bytes after it.
    """
    b = emit.builder
    with b.if_then(b.icmp_signed("!=", fetches, emit.number(0)), likely=False):
        is_given = b.icmp_signed(">", fetches, emit.number(1))
        emit.prefetch(address, b.select(is_given, fetches, emit.number(ahead)), size, cache)


def float_tile(rows, of_columns=False):
    """Return the intrinsic tile(x (T, n), row, w (any,), start, stride, depth, out, out_row,
    out_column, fetches).

    It computes, for r < rows and j < 32,

        out[out_row + r, out_column + j] =
            sum over k < depth of x[row + r, k] * w[start + k * stride + j]

    w holds float32 numbers, float16 numbers as their bits, uint16, or int8 codes.
    fetches: 1 to prefetch the panel (stride 32), 0 to leave that to the processor, more to prefetch
    what lies that many bytes ahead. Tiles with fewer than FEWEST_FETCHING rows never prefetch.
    of_columns: the rows are columns of x (n, T).
    """

    @intrinsic
    def tile(typing_context, x, row, w, start, stride, depth, out, out_row, out_column, fetches):
        if not fit((x, out), (FLOAT_MATRIX, FLOAT_MATRIX)):
            return None
        formats = (FLOAT_VECTOR, FLOATS, 4), (HALF_VECTOR, HALFS, 2), (CODE_VECTOR, CODES, 1)
        fitting = [stored for kind, *stored in formats if fit((w,), (kind,))]
        if not fitting:
            return None
        loaded_kind, item_bytes = fitting[0]
        vector_bytes = item_bytes * LANES
        integer = types.intp
        kinds = (x, integer, w, integer, integer, integer, out, integer, integer, integer)

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args, arguments)
            x, row, w, start, stride, depth, out, out_row, out_column, fetches = emit.arrays
            if of_columns:
                x_rows = [emit.row(x, 0, 4, emit.plus(row, r)) for r in range(rows)]
                next_k = emit.times(emit.width(x), 4)
            else:
                x_rows = [emit.row(x, emit.plus(row, r), 4) for r in range(rows)]
                next_k = 4
            y_rows = [emit.row(out, emit.plus(out_row, r), 4, out_column) for r in range(rows)]
            weights, line = emit.item(w, start, item_bytes), emit.times(stride, item_bytes)
            parts = _parts(rows, FLOAT_TOTALS)
            ahead, cache = (
                (NEAR_AHEAD, NEAREST) if len(parts) == 1 and rows < 6 else (FAR_AHEAD, FAR_CACHE)
            )

            def walk(first, count, part, beginning):
                """Compute the totals of `part` for `count` values of k from `first` on. They start
                at the values that `beginning` returns.
                """
                totals = [[emit.variable(beginning(y, c)) for c in part] for y in y_rows]
                with cgutils.for_range(builder, count) as along_k:
                    k = emit.plus(first, along_k.index)
                    here = emit.advance(
                        weights, emit.plus(emit.times(k, line), vector_bytes * part[0])
                    )
                    if rows >= FEWEST_FETCHING:
                        _fetch(emit, fetches, here, vector_bytes * len(part), ahead, cache)
                    loaded = [
                        emit.as_float32(emit.load(loaded_kind, here, vector_bytes * c))
                        for c in range(len(part))
                    ]
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
            # A depth of 0 is one empty stretch.
            stretches = emit.plus(1, builder.sdiv(emit.plus(depth, -1), emit.number(STRETCH)))
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
    """Return the intrinsic tile(kind, codes (T, K), scales, starts (T, K/32), row, panels (P,
    bytes), panel, out, out_row, out_column, fetches).

    It computes, for r < rows and j < 32,

        out[out_row + r, out_column + j] = row + r of the activations times output j of the panel

    fetches: as in `float_tile`. kind: a key of `formats`. It must be a constant in the caller, so
    that the instructions of the format are chosen when the caller is compiled.
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
        group_bytes = kind.halves * SCALE_BYTES + kind.code_bytes
        expected = (kind.code_kind, FLOAT_MATRIX, INT_MATRIX, BYTE_MATRIX, FLOAT_MATRIX)
        if not fit((x, scales, starts, panels, out), expected):
            return None
        integer = types.intp
        kinds = (key, x, scales, starts, integer, panels, integer, out, integer, integer, integer)

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args[1:], arguments[1:])
            x, scales, starts, row, panels, panel, out, out_row, out_column, fetches = emit.arrays
            groups = emit.width(scales)
            # The number of steps is a constant, but it is computed here to hide that from LLVM.
            # Otherwise LLVM would unroll the loop and spill registers.
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
                    codes_block = emit.advance(block, kind.halves * SCALE_BYTES)
                    if rows >= FEWEST_FETCHING:
                        _fetch(emit, fetches, block, group_bytes, FAR_AHEAD, FAR_CACHE)
                    first_totals = [kind.start(emit, start_row, group) for start_row in start_rows]
                    sums = [[emit.variable(start) for _ in part] for start in first_totals]
                    with cgutils.for_range(builder, steps) as along_steps:
                        step = along_steps.index
                        codes = [kind.load(emit, codes_block, step, c) for c in part]
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
                    weight_scales, *minima = (
                        [
                            emit.float16_to_float32(
                                emit.load(HALFS, block, SCALE_BYTES * half + 2 * LANES * c)
                            )
                            for c in part
                        ]
                        for half in range(kind.halves)
                    )
                    for r in range(rows):
                        x_scale = emit.load_everywhere(FLOAT, scale_rows[r], emit.times(group, 4))
                        if minima:
                            x_sum = builder.fmul(
                                x_scale, kind.sum_of_codes(emit, start_rows[r], group)
                            )
                        for c, total in enumerate(totals[r]):
                            exact = builder.sitofp(
                                kind.finish(emit, builder.load(sums[r][c]), first_totals[r]), FLOATS
                            )
                            scale = builder.fmul(weight_scales[c], x_scale)
                            result = emit.multiply_add(exact, scale, builder.load(total))
                            for minimum in minima:
                                result = emit.multiply_add(minimum[c], x_sum, result)
                            builder.store(result, total)
                _store_totals(emit, totals, y_rows, part)
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return tile
