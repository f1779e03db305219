"""Products of whole matrices, compiled. A training step spends most of its time here.

    y[i, j] = sum over k of a[i, k] b[k, j]

Decoding uses the same innermost loop (`float_tile`). It goes along K, and its totals of 8 rows
times 32 columns stay in the registers of AVX-512. Two loops surround it. The outer loop copies 32
columns of b into a panel, line after line, once for all rows of a. A panel of (K, 32) numbers stays
in the L2 cache while the rows are multiplied by it. This is the order of Goto and van de Geijn
(2008, "Anatomy of high-performance matrix multiplication"), who use more levels. The matrices here
are too small to need them.

Backward passes multiply transposed matrices. A panel can be gathered from rows or from columns, and
the tile can read rows or columns of a, so small matrices need no copies. But if numbers that are
read one after another are FAR apart, each is on another page of memory. Then b's columns are
gathered, too, and at twice that distance a is transposed, a strip at a time. On Intel Ice Lake this
makes the backward products of a layer with 576 inputs and 3,072 outputs 1.1 to 2.4 times as fast
(512 and 1,024 rows, two threads).

Without AVX-512, there are too few registers for this loop to be as fast as BLAS, which has a
special loop for each processor. In that case NumPy computes the product.
"""

from numba import types
from numba.extending import intrinsic

from minimtp.backend import CACHE_LINE
from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.matrices.packed_linear import multiply_floats
from minimtp.kernels.cpu.matrices.panels import PANEL
from minimtp.kernels.cpu.matrices.tiles import float_tile
from minimtp.kernels.cpu.matrices.vectors import (
    DOTS,
    FLOAT_MATRIX,
    FLOAT_VECTOR,
    FLOATS,
    LANES,
    Emitter,
    fit,
)

LINE = CACHE_LINE // 4  # floats
FAR = 512  # floats
STRIP = 256  # rows of a that are transposed at once

_columns_1, _columns_2, _columns_4, _columns_8 = (
    float_tile(rows, of_columns=True) for rows in (1, 2, 4, 8)
)


def matmul(a, b):
    if not DOTS:
        return plain.matmul(a, b)
    y = np.empty((*a.shape[:-1], b.shape[-1]), np.float32)
    count = len(a) if a.ndim == 3 else 1
    a, of_columns = _contiguous(a.reshape(count, *a.shape[-2:]))
    b, of_rows = _contiguous(b.reshape(count, *b.shape[-2:]))
    _products(a, of_columns, b, of_rows, y.reshape(count, *y.shape[-2:]))
    return y


def _contiguous(matrices):
    """Return the matrices (B, M, N) and False, or their transposes (B, N, M) and True if memory
    holds those.
    """
    if matrices.strides[1] < matrices.strides[2]:
        return np.ascontiguousarray(matrices.swapaxes(1, 2)), True
    return np.ascontiguousarray(matrices), False


@compiled
def _products(a, of_columns, b, of_rows, y):
    """Compute y (B, M, N) = a @ b. of_columns: a is (B, K, M) instead of (B, M, K). of_rows: b is
    (B, N, K) instead of (B, K, N).
    """
    depth, columns = (b.shape[2], b.shape[1]) if of_rows else (b.shape[1], b.shape[2])
    if depth != (a.shape[1] if of_columns else a.shape[2]):
        raise ValueError("matmul: the matrices do not fit")
    if y.shape[1] != (a.shape[2] if of_columns else a.shape[1]) or y.shape[2] != columns:
        raise ValueError("matmul: the result has another shape")
    memory = np.empty(depth * PANEL + LINE, np.float32)
    panel = memory[(-memory.ctypes.data // 4) % LINE :]
    rows = y.shape[1]
    is_far = of_columns and rows >= 2 * FAR
    height = STRIP if is_far else max(1, rows)
    edge = np.empty((height, PANEL), np.float32)
    turned = np.empty((STRIP, depth) if is_far else (0, 0), np.float32)
    for i in range(y.shape[0]):
        for row in range(0, rows, height):
            count = min(height, rows - row)
            if is_far:
                _turn(a[i], row, turned[:count])
            for column in range(0, columns, PANEL):
                whole = column + PANEL <= columns
                target, place = (y[i][row : row + count], column) if whole else (edge[:count], 0)
                if whole and not of_rows and columns < FAR:
                    weights, start, stride = b[i].reshape(-1), column, columns
                else:
                    weights, start, stride = panel, 0, PANEL
                    _gather(b[i], of_rows, column, min(columns - column, PANEL), panel)
                if is_far:
                    multiply_floats(turned[:count], weights, start, stride, depth, target, place, 0)
                elif of_columns:
                    _multiply_columns(a[i], weights, start, stride, depth, target, place)
                else:
                    multiply_floats(a[i], weights, start, stride, depth, target, place, 0)
                if not whole:
                    for r in range(count):
                        for j in range(columns - column):
                            y[i, row + r, column + j] = edge[r, j]


@compiled
def _gather(b, of_rows, column, width, panel):
    """Copy columns of b (K, N), or rows of b (N, K), to lines of 32, padded with zeros."""
    if width < PANEL:
        panel[:] = 0
    if not of_rows:
        for k in range(b.shape[0]):
            if width == PANEL:
                for j in range(PANEL):
                    panel[k * PANEL + j] = b[k, column + j]
            else:
                for j in range(width):
                    panel[k * PANEL + j] = b[k, column + j]
        return
    squares = b.shape[1] // LANES * LANES if width == PANEL else 0
    for k in range(0, squares, LANES):
        for j in range(0, PANEL, LANES):
            _transpose(b, column + j, k, panel, k * PANEL + j, PANEL)
    for k in range(squares, b.shape[1]):
        for j in range(width):
            panel[k * PANEL + j] = b[column + j, k]


@compiled
def _turn(a, first, turned):
    """Copy the columns of a (K, M) from `first` on to turned (N, K)."""
    rows, depth = turned.shape
    flat = turned.reshape(-1)
    for row in range(0, rows, LANES):
        squares = depth // LANES * LANES if row + LANES <= rows else 0
        for k in range(0, squares, LANES):
            _transpose(a, k, first + row, flat, row * depth + k, depth)
        for r in range(row, min(row + LANES, rows)):
            for k in range(squares, depth):
                turned[r, k] = a[k, first + r]


@intrinsic
def _transpose(typing_context, b, row, column, out, start, stride):
    """out[start + stride k + j] = b[row + j, column + k] for a square of j and k, within the
    registers.
    """
    if not fit((b, out), (FLOAT_MATRIX, FLOAT_VECTOR)):
        return None

    def generate(context, builder, signature, arguments):
        emit = Emitter(context, builder, signature.args, arguments)
        b, row, column, out, start, stride = emit.arrays
        square = [
            emit.load(FLOATS, emit.row(b, emit.plus(row, j), 4, column)) for j in range(LANES)
        ]
        for k, line in enumerate(emit.transposed(square)):
            emit.store(line, emit.item(out, emit.plus(start, emit.times(stride, k)), 4))
        return context.get_dummy_value()

    return types.void(b, row, column, out, start, stride), generate


@compiled
def _multiply_columns(x, w, start, stride, depth, y, column):
    """y[:, column + j] = sum over k < depth of x[k, :] * w[start + k * stride + j], for 32 values
    of j.
    """
    row = 0
    while row < y.shape[0]:
        left = y.shape[0] - row
        if left >= 8:
            _columns_8(x, row, w, start, stride, depth, y, row, column, 0)
            row += 8
        elif left >= 4:
            _columns_4(x, row, w, start, stride, depth, y, row, column, 0)
            row += 4
        elif left >= 2:
            _columns_2(x, row, w, start, stride, depth, y, row, column, 0)
            row += 2
        else:
            _columns_1(x, row, w, start, stride, depth, y, row, column, 0)
            row += 1
