"""A tile of a product with the instruction of AVX-512 BF16.

The instruction multiplies 16 pairs of bfloat16 numbers by 16 others and adds the two products of
each pair to a float32 total:

    total[j] += a[2p] b[2p, j] + a[2p + 1] b[2p + 1, j]         for 16 values of j

On AMD's processors (since Zen 4), it does twice the work of a float32 instruction. On the Intel
server that we measured, it was slower than float32: 95 GFLOP/s against 140. So it is used on AMD's
processors only.

A tile's totals, 8 rows times 48 columns, fill 24 of the 32 registers.
"""

from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.matrices.bfloat16.panels import PAIR, PAIRS
from minimtp.kernels.cpu.matrices.vectors import (
    DOTS,
    FLOAT_MATRIX,
    FLOATS,
    INT32,
    INTS,
    LANES,
    ZEN,
    Emitter,
    fit,
    processor_features,
)

HAS_INSTRUCTION = DOTS and "avx512bf16" in processor_features(cpu_target.target_context)
IS_FASTER = HAS_INSTRUCTION and ZEN  # than float32
TILE_ROWS, TILE_VECTORS = LANES // 2, 3
TILE_COLUMNS = TILE_VECTORS * LANES


def _tile_of(vectors):
    """Return the intrinsic tile(a, a_start, b, b_start, pairs, y, row, column, adds) that computes
    TILE_ROWS rows and `vectors` registers of columns. See `add_tile`.
    """

    @intrinsic
    def tile(typing_context, a, a_start, b, b_start, pairs, y, row, column, adds):
        if not fit((a, b, y), (PAIRS, PAIRS, FLOAT_MATRIX)):
            return None
        integer = types.intp
        kinds = (a, integer, b, integer, integer, y, integer, integer, types.boolean)

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args, arguments)
            a, a_start, b, b_start, pairs, y, row, column, adds = emit.arrays
            y_rows = [emit.row(y, emit.plus(row, r), 4, column) for r in range(TILE_ROWS)]
            totals = [
                [emit.variable(emit.constant(FLOATS, 0.0)) for _ in range(vectors)] for _ in y_rows
            ]
            line = LANES * PAIR
            with builder.if_then(adds):
                for address, row_totals in zip(y_rows, totals, strict=True):
                    for c, total in enumerate(row_totals):
                        builder.store(emit.load(FLOATS, address, 4 * LANES * c), total)
            a_panel = emit.item(a, a_start, PAIR)
            b_panels = [
                emit.item(b, emit.plus(b_start, emit.times(pairs, LANES * c)), PAIR)
                for c in range(vectors)
            ]
            with cgutils.for_range(builder, pairs) as along_k:
                offset = emit.times(along_k.index, line)
                loaded = [emit.load(INTS, emit.advance(panel, offset)) for panel in b_panels]
                here = emit.advance(a_panel, offset)
                for r, row_totals in enumerate(totals):
                    pair = emit.load_everywhere(INT32, here, PAIR * r)
                    for total, columns in zip(row_totals, loaded, strict=True):
                        builder.store(
                            emit.add_pairs_of_bfloat16(builder.load(total), pair, columns), total
                        )
            for address, row_totals in zip(y_rows, totals, strict=True):
                for c, total in enumerate(row_totals):
                    emit.store(builder.load(total), address, 4 * LANES * c)
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return tile


_tile_1, _tile_2, _tile_3 = (_tile_of(vectors) for vectors in (1, 2, 3))


@compiled
def add_tile(vectors, a, a_start, b, b_start, pairs, y, row, column, adds):
    """Compute TILE_ROWS rows and `vectors` times LANES columns of y, from `row` and `column` on.

    a_start, b_start: where the operands start in the panels. adds: the totals start at the values
    in y instead of zeros.
    """
    if vectors == 3:
        _tile_3(a, a_start, b, b_start, pairs, y, row, column, adds)
    elif vectors == 2:
        _tile_2(a, a_start, b, b_start, pairs, y, row, column, adds)
    else:
        _tile_1(a, a_start, b, b_start, pairs, y, row, column, adds)
