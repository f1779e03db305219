"""Matrix products in bfloat16, compiled, for processors that have instructions for them.

Three loops go around the tiles of the result, as in gemm.py's source (Goto and van de Geijn 2008).
The panels of a block of b stay in the L3 cache, and those of a block of a in the L2 cache, until
all their products are computed. With AVX-512 and 1,024 rows, the copies take about 5 % of the time.

**What the instructions ignore.** Operands, products and totals below 2^-126 (subnormal numbers)
count as 0. A product with a subnormal operand is below 2^-126 times the other operand.

On other processors, the operands are rounded as a whole, and NumPy or gemm.py multiplies them in
float32.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.matrices.bfloat16 import amx, avx512
from minimtp.kernels.cpu.matrices.bfloat16.panels import fill_panels, new_panels, whole_pairs
from minimtp.kernels.cpu.matrices.gemm import matmul
from minimtp.kernels.cpu.matrices.vectors import LANES

# Sizes of the blocks. The values were measured.
BLOCK_DEPTH = 768  # values of k, whole squares
BLOCK_ROWS = 256  # of a: 384 KB
BLOCK_COLUMNS = 1536  # of b: 2.25 MB
AMX_COLUMNS = 1024  # of b with AMX


def instructions():
    """Return the name of the instructions that multiply, None if float32 is faster."""
    if amx.is_usable():
        return "AMX"
    return "AVX-512 BF16" if avx512.IS_FASTER else None


def matmul_bfloat16(a, b):
    if a.shape[1] != b.shape[0]:
        raise ValueError("matmul_bfloat16: the matrices do not fit")
    (a, of_columns), (b, of_rows) = _contiguous(a), _contiguous(b)
    if instructions() is None:
        a, b = _rounded(a), _rounded(b)
        return matmul(a.T if of_columns else a, b.T if of_rows else b)
    rows, columns = a.shape[1 if of_columns else 0], b.shape[0 if of_rows else 1]
    y = np.empty((rows, columns), np.float32)
    _products(a, not of_columns, b, of_rows, y, amx.is_usable())
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


@compiled
def _products(a, a_by_line, b, b_by_line, y, with_amx):
    """Compute y (M, N) = a @ b.

    a_by_line: a is (M, K) instead of (K, M). b_by_line: b is (N, K) instead of (K, N).
    """
    rows, columns = y.shape
    depth = a.shape[1] if a_by_line else a.shape[0]
    if depth == 0:
        y[:] = 0
    tile_rows, tile_columns = avx512.TILE_ROWS, avx512.TILE_COLUMNS
    if with_amx:
        tile_rows, tile_columns = amx.TILE_ROWS, amx.TILE_COLUMNS
        amx.configure()
    # AVX-512 reads a tile's columns for all rows of a. AMX needs its operands so fast that it is
    # better to write y in the order of its memory.
    block_columns = AMX_COLUMNS if with_amx else BLOCK_COLUMNS
    columns_at_once = AMX_COLUMNS if with_amx else tile_columns
    block_depth = min(depth, BLOCK_DEPTH)
    a_panels = new_panels(min(rows, BLOCK_ROWS), block_depth)
    b_panels = new_panels(min(columns, block_columns), block_depth)
    edge = np.zeros((tile_rows, tile_columns), np.float32)
    for column in range(0, columns, block_columns):
        width = min(columns - column, block_columns)
        for k in range(0, depth, BLOCK_DEPTH):
            size = min(depth - k, BLOCK_DEPTH)
            pairs = whole_pairs(size)
            fill_panels(b, b_by_line, column, width, k, size, b_panels, False)
            for row in range(0, rows, BLOCK_ROWS):
                height = min(rows - row, BLOCK_ROWS)
                fill_panels(a, a_by_line, row, height, k, size, a_panels, with_amx)
                for j in range(0, width, columns_at_once):
                    stop = min(j + columns_at_once, width)
                    for i in range(0, height, tile_rows):
                        _add_tiles(
                            a_panels, i, b_panels, j, stop, pairs,
                            y, row + i, column, k > 0, edge, with_amx,
                        )  # fmt: skip
    if with_amx:
        amx.release()


@compiled
def _add_tiles(a, i, b, first, stop, pairs, y, row, column, adds, edge, with_amx):
    """Compute a tile's height of y from `row` on, with line i of the panels a and the lines from
    `first` to `stop` of the panels b, whose line 0 is `column` of y.

    adds: the totals start at the values in y instead of zeros.
    """
    tile_rows, tile_columns = edge.shape
    height = min(tile_rows, y.shape[0] - row)
    a_start = i // LANES * LANES * pairs + i % LANES
    for j in range(first, stop, tile_columns):
        b_start, left, width = j * pairs, column + j, min(tile_columns, stop - j)
        vectors = (width + LANES - 1) // LANES
        # Two calls instead of a variable for y or the edge: its references would be counted, and
        # every count would wait for the last tile to reach the memory.
        if height == tile_rows and width == (tile_columns if with_amx else vectors * LANES):
            if with_amx:
                amx.add_tile(a, a_start, b, b_start, pairs, y, row, left, adds)
            else:
                avx512.add_tile(vectors, a, a_start, b, b_start, pairs, y, row, left, adds)
            continue
        for r in range(height):
            for c in range(width):
                edge[r, c] = y[row + r, left + c]
        if with_amx:
            amx.add_tile(a, a_start, b, b_start, pairs, edge, 0, 0, adds)
        else:
            avx512.add_tile(vectors, a, a_start, b, b_start, pairs, edge, 0, 0, adds)
        for r in range(height):
            for c in range(width):
                y[row + r, left + c] = edge[r, c]
