"""Products of a few rows of activations with a weight matrix, compiled: what decoding spends its time in.

A decode step multiplies 1 row, a verification step 2 to 16, by every weight of the model. The weights are what costs,
so each is read once for all rows; BLAS has a fast path for one row and one for many, and is slow between. Weights are
laid out once, by `prepare_*`, in panels of 32 outputs (`cpu_tiles.py` says how and why), and a panel stays in the cache
while the rows pass over it, four at a time.

Quantized products work on integers: the activations are rounded to int8 per group of 32 (`quantize_activations`, the
very function that training can fake), and the 32 products of a group are summed exactly. A row's result is bitwise the
same whatever other rows are in the call, so verified drafts equal plain decoding with no tolerance.
"""

from dataclasses import dataclass

from minimtp.backend import numpy as np
from minimtp.kernels import blocks as ggml
from minimtp.kernels.compiling import compiled
from minimtp.kernels.cpu_activations import round_to_bytes, round_to_shorts
from minimtp.kernels.cpu_tiles import GROUP, PANEL, SCALE_BYTES, float_tile, q4_0_tile, q8_0_tile
from minimtp.kernels.cpu_vectors import LANES

F32, Q4_0, Q8_0 = 0, 1, 2
CACHE_LINE = 64
VECTORS = PANEL // LANES
F32_BYTES, Q4_0_BYTES, Q8_0_BYTES = 4 * PANEL, SCALE_BYTES + 16 * PANEL, SCALE_BYTES + 32 * PANEL

# Tiles of 1, 2 and 4 rows. Four rows take half a panel at a time: 4 x 2 totals, and what they are computed from, fill
# the 16 vector registers of x86.
_f32_1, _f32_2, _f32_4 = float_tile(1, VECTORS), float_tile(2, VECTORS), float_tile(4, VECTORS // 2)
_q4_0_1, _q4_0_2, _q4_0_4 = q4_0_tile(1, VECTORS), q4_0_tile(2, VECTORS), q4_0_tile(4, VECTORS // 2)
_q8_0_1, _q8_0_2, _q8_0_4 = q8_0_tile(1, VECTORS), q8_0_tile(2, VECTORS), q8_0_tile(4, VECTORS // 2)
HALF_PANEL = PANEL // 2


@dataclass(frozen=True, slots=True)
class Prepared:
    """A weight matrix laid out for `linear`."""

    rows: int
    columns: int
    panels: object  # uint8 (ceil(rows / 32), bytes of a panel)
    kind: int  # F32, Q4_0 or Q8_0

    @property
    def nbytes(self) -> int:
        return self.panels.nbytes


def linear(x, prepared, out=None):
    if out is None:
        out = np.empty((len(x), prepared.rows), np.float32)
    MULTIPLY[prepared.kind](np.ascontiguousarray(x), prepared.panels, out)
    return out


# ------------------------------------------------------------------------------------------------------------- layouts


def prepare_f32(weight):
    rows, columns = weight.shape
    panels = _empty_panels(rows, columns * F32_BYTES)
    by_column = panels.view(np.float32).reshape(-1, columns, PANEL)
    by_column[:] = _by_panel(weight.astype(np.float32, copy=False)).swapaxes(1, 2)
    return Prepared(rows, columns, panels, F32)


def prepare_q4_0(blocks):
    codes, scales = ggml.unpack_q4_0(blocks)
    rows, columns = codes.shape
    steps = _by_panel(codes + np.int8(8)).view(np.uint8).reshape(-1, PANEL, columns // GROUP, 4, 2, 4)
    packed = steps[..., 0, :] | steps[..., 1, :] << np.uint8(4)  # (panels, 32, K/32, 4, 4)
    return Prepared(rows, columns, _quantized_panels(rows, scales, packed), Q4_0)


def prepare_q8_0(blocks):
    codes, scales = ggml.unpack_q8_0(blocks)
    rows, columns = codes.shape
    packed = _by_panel(codes).view(np.uint8).reshape(-1, PANEL, columns // GROUP, 8, 4)
    return Prepared(rows, columns, _quantized_panels(rows, scales, packed), Q8_0)


def _quantized_panels(rows, scales, packed):
    """packed (panels, 32, K/32, steps, 4) uint8 -> (panels, K/32 * group bytes): a group's scales, then its steps."""
    count, _, groups, steps, _ = packed.shape
    panels = _empty_panels(rows, groups * (SCALE_BYTES + steps * 4 * PANEL))
    by_group = panels.reshape(count, groups, -1)
    by_group[:, :, :SCALE_BYTES].view(np.float16)[:] = _by_panel(scales).swapaxes(1, 2)
    by_group[:, :, SCALE_BYTES:] = packed.transpose(0, 2, 3, 1, 4).reshape(count, groups, -1)
    return panels


def _by_panel(matrix):
    """(N, K) -> (ceil(N / 32), 32, K), with rows of zeros at the end."""
    rows, columns = matrix.shape
    zeros = np.zeros((-rows % PANEL, columns), matrix.dtype)
    return np.concatenate([matrix, zeros]).reshape(-1, PANEL, columns)


def _empty_panels(rows, panel_bytes):
    """uint8 (ceil(rows / 32), panel_bytes) that begins at a cache line, so that no vector crosses one."""
    count = -(-rows // PANEL)
    memory = np.empty(count * panel_bytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + count * panel_bytes].reshape(count, panel_bytes)


# ------------------------------------------------------------------------------------------------------------ products


@compiled
def _require_fitting(x, panels, unit, unit_bytes, y):
    """A panel has `unit_bytes` for every `unit` columns."""
    if x.shape[1] % unit != 0 or panels.shape[1] != x.shape[1] // unit * unit_bytes:
        raise ValueError("linear: the activations are not as wide as the weights")
    if y.shape[0] != x.shape[0] or (y.shape[1] + PANEL - 1) // PANEL != panels.shape[0]:
        raise ValueError("linear: `out` must be (rows of activations, rows of weights)")


@compiled
def _copy_edge(edge, y, row, rows, column):
    for r in range(rows):
        for j in range(y.shape[1] - column):
            y[row + r, column + j] = edge[r, j]


@compiled
def _multiply_f32(x, panels, y):
    _require_fitting(x, panels, 1, F32_BYTES, y)
    edge = np.empty((4, PANEL), np.float32)  # what sticks out of a panel that y cuts off is computed here
    for panel in range(panels.shape[0]):
        column, row = panel * PANEL, 0
        whole = column + PANEL <= y.shape[1]
        while row < x.shape[0]:
            left = x.shape[0] - row
            out, at, first = (y, row, column) if whole else (edge, 0, 0)
            if left >= 4:
                rows = 4
                _f32_4(x, row, panels, panel, 0, out, at, first)
                _f32_4(x, row, panels, panel, HALF_PANEL, out, at, first + HALF_PANEL)
            elif left >= 2:
                rows = 2
                _f32_2(x, row, panels, panel, 0, out, at, first)
            else:
                rows = 1
                _f32_1(x, row, panels, panel, 0, out, at, first)
            if not whole:
                _copy_edge(edge, y, row, rows, column)
            row += rows


@compiled
def _multiply_q4_0(x, panels, y):
    _require_fitting(x, panels, GROUP, Q4_0_BYTES, y)
    codes, scales = np.empty(x.shape, np.int8), np.empty((x.shape[0], x.shape[1] // GROUP), np.float32)
    starts = np.empty(scales.shape, np.int32)
    round_to_bytes(x, codes, scales, starts)
    edge = np.empty((4, PANEL), np.float32)
    for panel in range(panels.shape[0]):
        column, row = panel * PANEL, 0
        whole = column + PANEL <= y.shape[1]
        while row < x.shape[0]:
            left = x.shape[0] - row
            out, at, first = (y, row, column) if whole else (edge, 0, 0)
            if left >= 4:
                rows = 4
                _q4_0_4(codes, scales, starts, row, panels, panel, 0, out, at, first)
                _q4_0_4(codes, scales, starts, row, panels, panel, HALF_PANEL, out, at, first + HALF_PANEL)
            elif left >= 2:
                rows = 2
                _q4_0_2(codes, scales, starts, row, panels, panel, 0, out, at, first)
            else:
                rows = 1
                _q4_0_1(codes, scales, starts, row, panels, panel, 0, out, at, first)
            if not whole:
                _copy_edge(edge, y, row, rows, column)
            row += rows


@compiled
def _multiply_q8_0(x, panels, y):
    _require_fitting(x, panels, GROUP, Q8_0_BYTES, y)
    codes, scales = np.empty(x.shape, np.int16), np.empty((x.shape[0], x.shape[1] // GROUP), np.float32)
    starts = np.empty(scales.shape, np.int32)
    round_to_shorts(x, codes, scales, starts)
    edge = np.empty((4, PANEL), np.float32)
    for panel in range(panels.shape[0]):
        column, row = panel * PANEL, 0
        whole = column + PANEL <= y.shape[1]
        while row < x.shape[0]:
            left = x.shape[0] - row
            out, at, first = (y, row, column) if whole else (edge, 0, 0)
            if left >= 4:
                rows = 4
                _q8_0_4(codes, scales, starts, row, panels, panel, 0, out, at, first)
                _q8_0_4(codes, scales, starts, row, panels, panel, HALF_PANEL, out, at, first + HALF_PANEL)
            elif left >= 2:
                rows = 2
                _q8_0_2(codes, scales, starts, row, panels, panel, 0, out, at, first)
            else:
                rows = 1
                _q8_0_1(codes, scales, starts, row, panels, panel, 0, out, at, first)
            if not whole:
                _copy_edge(edge, y, row, rows, column)
            row += rows


@compiled
def multiply(kind, x, panels, y):
    """y = x @ W.T for panels of any format."""
    if kind == F32:
        _multiply_f32(x, panels, y)
    elif kind == Q4_0:
        _multiply_q4_0(x, panels, y)
    else:
        _multiply_q8_0(x, panels, y)


MULTIPLY = (_multiply_f32, _multiply_q4_0, _multiply_q8_0)
