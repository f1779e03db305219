"""The operands of a product, rounded to bfloat16 and in the order in which instructions read them.

A line is a row of a or a column of b. Both matrices are cut into panels of 16 lines, and a panel
into squares of 16 pairs of values of k. A square has a dword for each line and pair, which holds
the line's two numbers:

    a square of pairs   [pair, line]    for columns, and for the rows that AVX-512 multiplies
    a square of lines   [line, pair]    for the rows that AMX multiplies

So a row of a square is a register, and a tile reads its operands from neighbouring addresses,
whichever way the matrices lay in memory. Backward passes therefore need no transposed copies, and
rounded matrices are never written to memory as a whole. Missing lines and values of k are zeros.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minimtp.backend import CACHE_LINE
from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.matrices.vectors import (
    FLOAT_MATRIX,
    FLOATS,
    INT32,
    INTS,
    LANES,
    SHORTS,
    Emitter,
    fit,
)

PAIR = 4  # bytes of two bfloat16 numbers
SQUARE = LANES * LANES  # pairs
GROUP_LINES = 128  # whose panels are filled together: a few cache lines of each row of the matrix

PAIRS = types.Array(types.uint32, 1, "C")


def _square_of(by_line, of_lines):
    """Return the intrinsic fill(matrix, line, k, panels, start), which rounds a square.

    by_line: the matrix is (lines, K) instead of (K, lines). of_lines: the square's rows are lines
    instead of pairs.
    """

    @intrinsic
    def fill(typing_context, matrix, line, k, panels, start):
        if not fit((matrix, panels), (FLOAT_MATRIX, PAIRS)):
            return None

        def generate(context, builder, signature, arguments):
            emit = Emitter(context, builder, signature.args, arguments)
            matrix, line, k, panels, start = emit.arrays
            square = []
            for j in range(LANES):
                if by_line:
                    address = emit.row(matrix, emit.plus(line, j), 4, k)
                    halves = [emit.load(FLOATS, address, 4 * LANES * half) for half in (0, 1)]
                    square.append(emit.rounded_to_bfloat16(*halves))
                else:
                    rows = [emit.plus(k, 2 * j + half) for half in (0, 1)]
                    halves = [emit.load(FLOATS, emit.row(matrix, row, 4, line)) for row in rows]
                    square.append(_interleaved(emit, emit.rounded_to_bfloat16(*halves)))
            if by_line != of_lines:
                square = emit.transposed(square)
            for j, pairs in enumerate(square):
                emit.store(pairs, emit.item(panels, start, PAIR), PAIR * LANES * j)
            return context.get_dummy_value()

        return types.void(matrix, types.intp, types.intp, panels, types.intp), generate

    return fill


def _interleaved(emit, rounded):
    """Return pairs of the first and the second half of 2 * LANES bfloat16 numbers, INTS."""
    shorts = emit.builder.bitcast(rounded, SHORTS)
    order = [LANES * half + lane for lane in range(LANES) for half in (0, 1)]
    return emit.builder.bitcast(emit.lanes(shorts, order), INTS)


_lines_of_rows, _pairs_of_rows = _square_of(True, True), _square_of(True, False)
_lines_of_columns, _pairs_of_columns = _square_of(False, True), _square_of(False, False)


@intrinsic
def _rounded_pair(typing_context, low, high):
    """Return two float32 numbers rounded to bfloat16, as one uint32."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(context, builder, signature.args, arguments)
        low, high = (emit.everywhere(number) for number in emit.arrays)
        pairs = _interleaved(emit, emit.rounded_to_bfloat16(low, high))
        return builder.extract_element(pairs, ir.Constant(INT32, 0))

    return types.uint32(types.float32, types.float32), generate


@compiled
def whole_pairs(depth):
    """Return the number of pairs of a panel for `depth` values of k, a multiple of LANES."""
    return (depth + 2 * LANES - 1) // (2 * LANES) * LANES


@compiled
def new_panels(lines, depth):
    """Return memory for an even number of panels, which begins at a cache line."""
    size = (lines + 2 * LANES - 1) // (2 * LANES) * 2 * LANES * whole_pairs(depth)
    memory = np.empty(size + CACHE_LINE // PAIR, np.uint32)
    return memory[(-memory.ctypes.data // PAIR) % (CACHE_LINE // PAIR) :]


@compiled
def fill_panels(matrix, by_line, first, lines, k, depth, panels, of_lines):
    """Round `lines` lines, from `first` on, with the values k to k + depth, into panels.

    matrix: (lines, K) if by_line, else (K, lines). of_lines: the squares' rows are lines.
    """
    size = LANES * whole_pairs(depth)  # of a panel
    whole, filled = lines // LANES * LANES, depth // (2 * LANES) * (2 * LANES)
    group_size = LANES if by_line else GROUP_LINES
    for group in range(0, whole, group_size):
        for done in range(0, filled, 2 * LANES):
            for line in range(group, min(whole, group + group_size), LANES):
                start = line // LANES * size + LANES * done // 2
                place = first + line, k + done
                if by_line and of_lines:
                    _lines_of_rows(matrix, place[0], place[1], panels, start)
                elif by_line:
                    _pairs_of_rows(matrix, place[0], place[1], panels, start)
                elif of_lines:
                    _lines_of_columns(matrix, place[0], place[1], panels, start)
                else:
                    _pairs_of_columns(matrix, place[0], place[1], panels, start)
    for line in range(0, lines, LANES):
        panel = panels[line // LANES * size :]
        pair = filled // 2 if line < whole else 0
        rest = min(LANES, lines - line)
        _fill_slowly(matrix, by_line, first + line, rest, k, pair, depth, panel, of_lines)


@compiled
def _fill_slowly(matrix, by_line, first, lines, k, pair, depth, panel, of_lines):
    """Fill one panel from the given pair on, with zeros for missing lines and values of k."""
    panel[LANES * pair : LANES * whole_pairs(depth)] = 0
    for p in range(pair, (depth + 1) // 2):
        low, high = k + 2 * p, k + min(2 * p + 1, depth - 1)
        for j in range(lines):
            line = first + j
            if by_line:
                a, b = matrix[line, low], matrix[line, high]
            else:
                a, b = matrix[low, line], matrix[high, line]
            row, column = (j, p % LANES) if of_lines else (p % LANES, j)
            place = p // LANES * SQUARE + LANES * row + column
            panel[place] = _rounded_pair(a, b if low < high else np.float32(0))
