"""Matrix products in bfloat16, compiled, for processors that have an instruction for them.

The instruction (AVX-512 BF16: AMD since Zen 4, Intel since Cooper Lake) multiplies 16 pairs of
bfloat16 numbers by 16 others and adds the two products of each pair to a float32 total:

    total[j] += a[2p] b[2p, j] + a[2p + 1] b[2p + 1, j]         for 16 values of j

It does twice the work of a float32 instruction. The rest of this file supplies it with operands.

**Panels.** Both matrices are rounded into panels of 16 lines. A line is a row of a or a column of
b. For each pair of values of k, a panel has one dword per line, and the dword holds the line's two
numbers. So a pair of b's panel is a register, and a tile reads its operands from neighbouring
addresses, whichever way the matrices lay in memory. Backward passes therefore need no transposed
copies, and rounded matrices are never written to memory as a whole. Missing lines and values of k
are zeros.

**Blocks.** A tile's totals, 8 rows times 48 columns, fill 24 of the 32 registers. Three loops go
around the tiles, as in gemm.py's source (Goto and van de Geijn 2008). The panels of a block of b
stay in the L3 cache, and those of a block of a in the L2 cache, until all their products are
computed. The copies take about 5 % of the time with 1,024 rows.

**What the instructions ignore.** Operands, products and totals below 2^-126 (subnormal numbers)
count as 0. A product with a subnormal operand is below 2^-126 times the other operand.

On other processors, the operands are rounded as a whole, and NumPy or gemm.py multiplies them in
float32.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from minimtp.backend import CACHE_LINE
from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.matrices.gemm import matmul
from minimtp.kernels.cpu.matrices.vectors import (
    DOTS,
    FLOAT_MATRIX,
    FLOATS,
    INT32,
    INTS,
    LANES,
    SHORTS,
    Emitter,
    fit,
    processor_features,
)

HAS_BFLOAT16 = DOTS and "avx512bf16" in processor_features(cpu_target.target_context)
PAIR = 4  # bytes of two bfloat16 numbers
TILE_ROWS, TILE_VECTORS = LANES // 2, 3
TILE_COLUMNS = TILE_VECTORS * LANES
# Sizes of the blocks. The values were measured.
BLOCK_DEPTH = 768  # values of k, an even number
BLOCK_ROWS = 256  # of a: 384 KB
BLOCK_COLUMNS = 1536  # of b: 2.25 MB
GROUP_LINES = 128  # whose panels are filled together: a few cache lines of each row of the matrix

PAIRS = types.Array(types.uint32, 1, "C")


def matmul_bfloat16(a, b):
    if a.shape[1] != b.shape[0]:
        raise ValueError("matmul_bfloat16: the matrices do not fit")
    (a, of_columns), (b, of_rows) = _contiguous(a), _contiguous(b)
    if not HAS_BFLOAT16:
        a, b = _rounded(a), _rounded(b)
        return matmul(a.T if of_columns else a, b.T if of_rows else b)
    rows, columns = a.shape[1 if of_columns else 0], b.shape[0 if of_rows else 1]
    y = np.empty((rows, columns), np.float32)
    _products(a, not of_columns, b, of_rows, y)
    return y


def _rounded(x):
    """See `plain.bfloat16.round_to_bfloat16`."""
    bits = np.empty(x.shape, np.uint32)
    _round(x.reshape(-1).view(np.uint32), bits.reshape(-1))
    return bits.view(np.float32)


@compiled
def _round(x, bits):
    for i in range(x.size):
        rounded = x[i] + (np.uint32(0x7FFF) + ((x[i] >> np.uint32(16)) & np.uint32(1)))
        is_nan = (x[i] & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        upper = x[i] | np.uint32(0x400000) if is_nan else rounded
        bits[i] = upper & np.uint32(0xFFFF0000)


def _contiguous(matrix):
    """Return the matrix and False, or its transpose and True if memory holds that."""
    if matrix.strides[0] < matrix.strides[1]:
        return np.ascontiguousarray(matrix.T), True
    return np.ascontiguousarray(matrix), False


def _tile_of(vectors):
    """Return the intrinsic tile(a, a_start, b, b_start, pairs, y, row, column, adds) that computes
    TILE_ROWS rows and `vectors` registers of columns. See `_add_tile`.
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


@intrinsic
def _transpose(typing_context, matrix, line, k, panels, start):
    """Round 16 pairs of 16 lines of a matrix (lines, K), from `line` and k on, into a panel."""
    if not fit((matrix, panels), (FLOAT_MATRIX, PAIRS)):
        return None

    def generate(context, builder, signature, arguments):
        emit = Emitter(context, builder, signature.args, arguments)
        matrix, line, k, panels, start = emit.arrays
        lines = [emit.row(matrix, emit.plus(line, j), 4, k) for j in range(LANES)]
        square = [
            emit.rounded_to_bfloat16(*(emit.load(FLOATS, x, 4 * LANES * half) for half in (0, 1)))
            for x in lines
        ]
        for p, pairs in enumerate(emit.transposed(square)):
            emit.store(pairs, emit.item(panels, start, PAIR), PAIR * LANES * p)
        return context.get_dummy_value()

    return types.void(matrix, types.intp, types.intp, panels, types.intp), generate


@intrinsic
def _interleave(typing_context, matrix, k, line, panels, start):
    """Round one pair of 16 lines of a matrix (K, lines), from k and `line` on, into a panel."""
    if not fit((matrix, panels), (FLOAT_MATRIX, PAIRS)):
        return None

    def generate(context, builder, signature, arguments):
        emit = Emitter(context, builder, signature.args, arguments)
        matrix, k, line, panels, start = emit.arrays
        rounded = emit.rounded_to_bfloat16(
            *(emit.load(FLOATS, emit.row(matrix, emit.plus(k, half), 4, line)) for half in (0, 1))
        )
        shorts = builder.bitcast(rounded, SHORTS)
        order = [LANES * half + lane for lane in range(LANES) for half in (0, 1)]
        emit.store(emit.lanes(shorts, order), emit.item(panels, start, PAIR))
        return context.get_dummy_value()

    return types.void(matrix, types.intp, types.intp, panels, types.intp), generate


@intrinsic
def _rounded_pair(typing_context, low, high):
    """Return two float32 numbers rounded to bfloat16, as one uint32."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(context, builder, signature.args, arguments)
        low, high = (emit.everywhere(number) for number in emit.arrays)
        shorts = builder.bitcast(emit.rounded_to_bfloat16(low, high), SHORTS)
        pairs = builder.bitcast(emit.lanes(shorts, [0, LANES] * LANES), INTS)
        return builder.extract_element(pairs, ir.Constant(INT32, 0))

    return types.uint32(types.float32, types.float32), generate


@compiled
def _products(a, a_by_line, b, b_by_line, y):
    """Compute y (M, N) = a @ b.

    a_by_line: a is (M, K) instead of (K, M). b_by_line: b is (N, K) instead of (K, N).
    """
    rows, columns = y.shape
    depth = a.shape[1] if a_by_line else a.shape[0]
    if depth == 0:
        y[:] = 0
    block_depth = min(depth, BLOCK_DEPTH)
    a_panels = _panels(min(rows, BLOCK_ROWS), block_depth)
    b_panels = _panels(min(columns, BLOCK_COLUMNS), block_depth)
    edge = np.zeros((TILE_ROWS, TILE_COLUMNS), np.float32)
    for column in range(0, columns, BLOCK_COLUMNS):
        width = min(columns - column, BLOCK_COLUMNS)
        for k in range(0, depth, BLOCK_DEPTH):
            size = min(depth - k, BLOCK_DEPTH)
            pairs = (size + 1) // 2
            _fill_panels(b, b_by_line, column, width, k, size, b_panels)
            for row in range(0, rows, BLOCK_ROWS):
                height = min(rows - row, BLOCK_ROWS)
                _fill_panels(a, a_by_line, row, height, k, size, a_panels)
                for j in range(0, width, TILE_COLUMNS):
                    for i in range(0, height, TILE_ROWS):
                        _add_tile(
                            a_panels, i, b_panels, j, pairs,
                            y, row + i, column + j, k > 0, edge,
                        )  # fmt: skip


@compiled
def _panels(lines, depth):
    """Return memory for the panels, which begins at a cache line."""
    size = (lines + LANES - 1) // LANES * LANES * ((depth + 1) // 2)
    memory = np.empty(size + CACHE_LINE // PAIR, np.uint32)
    return memory[(-memory.ctypes.data // PAIR) % (CACHE_LINE // PAIR) :]


@compiled
def _fill_panels(matrix, by_line, first, lines, k, depth, panels):
    """Copy `lines` lines, from `first` on, with the values k to k + depth, into panels.

    matrix: (lines, K) if by_line, else (K, lines).
    """
    pairs = (depth + 1) // 2
    whole = lines // LANES * LANES
    if by_line:
        filled = depth // (2 * LANES) * LANES
        for line in range(0, whole, LANES):
            for pair in range(0, filled, LANES):
                _transpose(matrix, first + line, k + 2 * pair, panels, line * pairs + LANES * pair)
    else:
        filled = depth // 2
        for group in range(0, whole, GROUP_LINES):
            end = min(whole, group + GROUP_LINES)
            for pair in range(filled):
                for line in range(group, end, LANES):
                    start = line * pairs + LANES * pair
                    _interleave(matrix, k + 2 * pair, first + line, panels, start)
    for line in range(0, lines, LANES):
        done = filled if line < whole else 0
        count = min(LANES, lines - line)
        _fill_slowly(matrix, by_line, first + line, count, k, done, depth, panels[line * pairs :])


@compiled
def _fill_slowly(matrix, by_line, first, lines, k, pair, depth, panel):
    """Fill one panel from the given pair on, with zeros for missing lines and values of k."""
    for p in range(pair, (depth + 1) // 2):
        low, high = k + 2 * p, k + min(2 * p + 1, depth - 1)
        for j in range(lines):
            line = first + j
            if by_line:
                a, b = matrix[line, low], matrix[line, high]
            else:
                a, b = matrix[low, line], matrix[high, line]
            panel[LANES * p + j] = _rounded_pair(a, b if low < high else np.float32(0))
        panel[LANES * p + lines : LANES * (p + 1)] = 0


@compiled
def _add_tile(a, i, b, j, pairs, y, row, column, adds, edge):
    """Compute one tile of y, from line i of the panels a and line j of the panels b on.

    adds: the tile's totals start at the values in y instead of zeros.
    """
    vectors = min(TILE_VECTORS, (y.shape[1] - column + LANES - 1) // LANES)
    a_start = i // LANES * LANES * pairs + i % LANES
    b_start = j * pairs
    height, width = min(TILE_ROWS, y.shape[0] - row), min(TILE_COLUMNS, y.shape[1] - column)
    if height == TILE_ROWS and width == vectors * LANES:
        _tile(vectors, a, a_start, b, b_start, pairs, y, row, column, adds)
        return
    for r in range(height):
        for c in range(width):
            edge[r, c] = y[row + r, column + c]
    _tile(vectors, a, a_start, b, b_start, pairs, edge, 0, 0, adds)
    for r in range(height):
        for c in range(width):
            y[row + r, column + c] = edge[r, c]


@compiled
def _tile(vectors, a, a_start, b, b_start, pairs, y, row, column, adds):
    if vectors == 3:
        _tile_3(a, a_start, b, b_start, pairs, y, row, column, adds)
    elif vectors == 2:
        _tile_2(a, a_start, b, b_start, pairs, y, row, column, adds)
    else:
        _tile_1(a, a_start, b, b_start, pairs, y, row, column, adds)
