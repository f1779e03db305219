"""Products of a few rows of activations with a weight matrix, compiled. Decoding spends most of its
time here.

A decode step multiplies 1 row by every weight of the model, a verification step 2 to 16 rows. Most
of the time is spent reading the weights, so each weight is read once for all rows. BLAS is fast for
one row and for many rows, and slow in between. `prepare_*` lays out the weights once in panels of
32 outputs (panels.py explains how and why). A panel stays in the cache while groups of four or
eight rows are multiplied by it.

Quantized products work on integers. Activations are rounded to int8 per group of 32
(`quantize_activations`, which training simulates), and the 32 products of a group are summed
exactly. The bits of a row do not depend on the other rows of the call, so speculative and plain
decoding give identical results.
"""

from dataclasses import dataclass

from minimtp.backend import Array, aligned_zeros
from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.matrices.code_products import Q4, Q4_WITH_MINIMUM, Q5, Q5_WITH_MINIMUM, Q8
from minimtp.kernels.cpu.matrices.panels import (
    GROUP,
    PANEL,
    SCALE_BYTES,
    by_panel,
    fifth_bits,
    float16_bytes,
    four_bit_steps,
    panels_of_groups,
    q4_0_steps,
    quantized_panels,
    step_bytes,
)
from minimtp.kernels.cpu.matrices.tiles import MAX_TILE_ROWS, float_tile, quantized_tile
from minimtp.kernels.ggml import blocks as ggml
from minimtp.kernels.ggml.five_bits import unpack_q5_0, unpack_q5_1

F32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 = range(6)
LARGE = 1 << 19  # bytes; larger matrices are prefetched, smaller ones stay in the L2 cache
F32_BYTES = 4 * PANEL
Q4_0_BYTES = SCALE_BYTES + Q4.code_bytes
Q4_1_BYTES = 2 * SCALE_BYTES + Q4_WITH_MINIMUM.code_bytes
Q5_0_BYTES = SCALE_BYTES + Q5.code_bytes
Q5_1_BYTES = 2 * SCALE_BYTES + Q5_WITH_MINIMUM.code_bytes
Q8_0_BYTES = SCALE_BYTES + Q8.code_bytes

# A tile of one row is slow, because each addition waits for the one before. So rows are divided
# without leaving a single row: five rows are three and two.
_f32_1, _f32_2, _f32_3, _f32_4, _f32_5, _f32_6, _f32_7, _f32_8 = (
    float_tile(rows) for rows in range(1, 9)
)
_PRODUCTS = {Q4_0: Q4, Q4_1: Q4_WITH_MINIMUM, Q5_0: Q5, Q5_1: Q5_WITH_MINIMUM, Q8_0: Q8}
_tile_1, _tile_2, _tile_3, _tile_4 = (quantized_tile(_PRODUCTS, rows) for rows in range(1, 5))
_round_for_fours, _round_for_q8_0 = Q4.round_rows, Q8.round_rows
Q8_0_CODE = np.int8 if Q8.code_size == 1 else np.int16


@dataclass(frozen=True, slots=True)
class Prepared:
    """A weight matrix laid out for `linear`."""

    rows: int
    columns: int
    panels: Array  # uint8 (ceil(rows / 32), bytes of a panel)
    kind: int  # F32, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0

    @property
    def nbytes(self) -> int:
        return self.panels.nbytes

    def repeated(self, count: int) -> "Prepared":
        """Return `count` copies of the matrix, one below the other. Its rows must fill whole
        panels.
        """
        panels = aligned_zeros((count * len(self.panels), self.panels.shape[1]))
        panels.reshape(count, *self.panels.shape)[:] = self.panels
        return Prepared(count * self.rows, self.columns, panels, self.kind)


def linear(x, prepared, out=None):
    if out is None:
        out = np.empty((len(x), prepared.rows), np.float32)
    panels = prepared.panels
    MULTIPLY[prepared.kind](np.ascontiguousarray(x), panels, 0, len(panels), out)
    return out


def prepare_f32(weight):
    rows, columns = weight.shape
    panels = aligned_zeros((-(-rows // PANEL), columns * F32_BYTES))
    by_column = panels.view(np.float32).reshape(-1, columns, PANEL)
    by_column[:] = by_panel(weight.astype(np.float32, copy=False)).swapaxes(1, 2)
    return Prepared(rows, columns, panels, F32)


def prepare_f16(numbers):
    return prepare_f32(numbers.view(np.float16))  # CPUs have no fast product of float16 numbers


def prepare_q4_0(blocks):
    codes, scales = ggml.unpack_q4_0(blocks)
    rows, columns = codes.shape
    return Prepared(rows, columns, quantized_panels(scales, q4_0_steps(codes)), Q4_0)


def prepare_q4_1(blocks):
    codes, scales, minima = ggml.unpack_q4_1(blocks)
    rows, columns = codes.shape
    parts = float16_bytes(scales), float16_bytes(minima), step_bytes(four_bit_steps(codes))
    panels = panels_of_groups(parts)
    return Prepared(rows, columns, panels, Q4_1)


def prepare_q5_0(blocks):
    codes, scales = unpack_q5_0(blocks)
    return _prepared_of_five_bits(codes + np.int8(16), scales, None, Q5_0)


def prepare_q5_1(blocks):
    return _prepared_of_five_bits(*unpack_q5_1(blocks), Q5_1)


def _prepared_of_five_bits(codes, scales, minima, kind):
    rows, columns = codes.shape
    steps = four_bit_steps(codes & np.int8(15))
    halves = [float16_bytes(part) for part in (scales, minima) if part is not None]
    panels = panels_of_groups([*halves, step_bytes(steps), fifth_bits(codes)])
    return Prepared(rows, columns, panels, kind)


def prepare_q8_0(blocks):
    codes, scales = ggml.unpack_q8_0(blocks)
    rows, columns = codes.shape
    packed = (by_panel(codes).view(np.uint8) + np.uint8(Q8.stored_offset)).reshape(
        -1, PANEL, columns // GROUP, 8, 4
    )
    return Prepared(rows, columns, quantized_panels(scales, packed), Q8_0)


@compiled
def _require_fitting(x, panels, first, stop, unit, unit_bytes, y):
    """Raise ValueError unless the shapes fit. A panel has `unit_bytes` for every `unit` columns."""
    if not 0 <= first <= stop <= panels.shape[0]:
        raise ValueError("linear: there are no such panels")
    if x.shape[1] % unit != 0 or panels.shape[1] != x.shape[1] // unit * unit_bytes:
        raise ValueError("linear: the activations are not as wide as the weights")
    if y.shape[0] != x.shape[0] or (y.shape[1] + PANEL - 1) // PANEL != panels.shape[0]:
        raise ValueError("linear: `out` must be (rows of activations, rows of weights)")


@compiled
def _next_rows(left, max_rows):
    """Return the rows of the next tile, at most `max_rows`, so that no single row is left over."""
    return left if left <= max_rows else min(max_rows, (left + 1) // 2)


@compiled
def multiply_floats(x, w, start, stride, depth, y, column, fetches):
    """Compute y[:, column + j] = sum over k < depth of x[:, k] * w[start + k * stride + j], for
    j < 32.
    """
    row = 0
    while row < x.shape[0]:
        rows = _next_rows(x.shape[0] - row, MAX_TILE_ROWS)
        if rows == 8:
            _f32_8(x, row, w, start, stride, depth, y, row, column, fetches)
        elif rows == 7:
            _f32_7(x, row, w, start, stride, depth, y, row, column, fetches)
        elif rows == 6:
            _f32_6(x, row, w, start, stride, depth, y, row, column, fetches)
        elif rows == 5:
            _f32_5(x, row, w, start, stride, depth, y, row, column, fetches)
        elif rows == 4:
            _f32_4(x, row, w, start, stride, depth, y, row, column, fetches)
        elif rows == 3:
            _f32_3(x, row, w, start, stride, depth, y, row, column, fetches)
        elif rows == 2:
            _f32_2(x, row, w, start, stride, depth, y, row, column, fetches)
        else:
            _f32_1(x, row, w, start, stride, depth, y, row, column, fetches)
        row, fetches = row + rows, 0  # the other rows find the panel in the cache


@compiled
def _multiply_f32(x, panels, first, stop, y):
    _require_fitting(x, panels, first, stop, 1, F32_BYTES, y)
    weights = panels.reshape(-1).view(np.float32)
    fetches = 1 if panels.size >= LARGE else 0
    for panel in range(max(first, 0), stop):
        column, start = panel * PANEL, panel * x.shape[1] * PANEL
        if column + PANEL <= y.shape[1]:
            multiply_floats(x, weights, start, PANEL, x.shape[1], y, column, fetches)
        else:  # y has fewer columns than the panel: use a temporary array and copy
            edge = np.empty((x.shape[0], PANEL), np.float32)
            multiply_floats(x, weights, start, PANEL, x.shape[1], edge, 0, fetches)
            _copy_edge(edge, y, column)


@compiled
def _copy_edge(edge, y, column):
    for r in range(y.shape[0]):
        for j in range(y.shape[1] - column):
            y[r, column + j] = edge[r, j]


@compiled
def _multiply_fours(kind, group_bytes, x, panels, first, stop, y):
    """Multiply by a format whose activations are rounded as those of q4_0. `kind` is a constant."""
    _require_fitting(x, panels, first, stop, GROUP, group_bytes, y)
    codes = np.empty(x.shape, np.int8)
    scales = np.empty((x.shape[0], x.shape[1] // GROUP), np.float32)
    starts = np.empty(scales.shape, np.int32)
    _round_for_fours(x, codes, scales, starts)
    _multiply_quantized(kind, codes, scales, starts, panels, first, stop, y)


@compiled
def _multiply_q4_0(x, panels, first, stop, y):
    _multiply_fours(Q4_0, Q4_0_BYTES, x, panels, first, stop, y)


@compiled
def _multiply_q4_1(x, panels, first, stop, y):
    _multiply_fours(Q4_1, Q4_1_BYTES, x, panels, first, stop, y)


@compiled
def _multiply_q5_0(x, panels, first, stop, y):
    _multiply_fours(Q5_0, Q5_0_BYTES, x, panels, first, stop, y)


@compiled
def _multiply_q5_1(x, panels, first, stop, y):
    _multiply_fours(Q5_1, Q5_1_BYTES, x, panels, first, stop, y)


@compiled
def _multiply_q8_0(x, panels, first, stop, y):
    _require_fitting(x, panels, first, stop, GROUP, Q8_0_BYTES, y)
    codes = np.empty(x.shape, Q8_0_CODE)
    scales = np.empty((x.shape[0], x.shape[1] // GROUP), np.float32)
    starts = np.empty(scales.shape, np.int32)
    _round_for_q8_0(x, codes, scales, starts)
    _multiply_quantized(Q8_0, codes, scales, starts, panels, first, stop, y)


@compiled
def _multiply_quantized(kind, codes, scales, starts, panels, first, stop, y):
    """Multiply quantized rows. Numba compiles one version for each `kind`, a constant."""
    first, whole = max(first, 0), min(stop, y.shape[1] // PANEL)
    _multiply_panels(kind, codes, scales, starts, panels, first, whole, y, first * PANEL)
    if (
        max(first, whole) < stop
    ):  # y has fewer columns than the last panel: use a temporary array and copy
        edge = np.empty((codes.shape[0], PANEL), np.float32)
        _multiply_panels(kind, codes, scales, starts, panels, whole, stop, edge, 0)
        _copy_edge(edge, y, whole * PANEL)


@compiled
def _multiply_panels(kind, codes, scales, starts, panels, first, stop, y, column):
    """Write the products with the panels from `first` to before `stop` to y, from `column` on."""
    for panel in range(first, stop):
        fetches = 1 if panels.size >= LARGE else 0
        row = 0
        while row < y.shape[0]:
            rows = _next_rows(y.shape[0] - row, 4)
            if rows == 4:
                _tile_4(kind, codes, scales, starts, row, panels, panel, y, row, column, fetches)
            elif rows == 3:
                _tile_3(kind, codes, scales, starts, row, panels, panel, y, row, column, fetches)
            elif rows == 2:
                _tile_2(kind, codes, scales, starts, row, panels, panel, y, row, column, fetches)
            else:
                _tile_1(kind, codes, scales, starts, row, panels, panel, y, row, column, fetches)
            row, fetches = row + rows, 0  # the other rows find the panel in the cache
        column += PANEL


@compiled
def multiply(kind, x, panels, first, stop, y):
    """Compute those columns of y = x @ W.T that belong to the panels from `first` to before `stop`,
    for panels of any format.
    """
    if kind == F32:
        _multiply_f32(x, panels, first, stop, y)
    elif kind == Q4_0:
        _multiply_q4_0(x, panels, first, stop, y)
    elif kind == Q4_1:
        _multiply_q4_1(x, panels, first, stop, y)
    elif kind == Q5_0:
        _multiply_q5_0(x, panels, first, stop, y)
    elif kind == Q5_1:
        _multiply_q5_1(x, panels, first, stop, y)
    else:
        _multiply_q8_0(x, panels, first, stop, y)


MULTIPLY = (  # by kind
    _multiply_f32,
    _multiply_q4_0,
    _multiply_q4_1,
    _multiply_q5_0,
    _multiply_q5_1,
    _multiply_q8_0,
)
