"""Embedding lookups in a matrix stored as panels (panels.py). A tied output matrix is also the
table of token embeddings.

Therefore the table does not have to be stored a second time. A row is scattered over its panel, one
number or dword per cache line. Collecting it takes less than a microsecond.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import float16_as_float32
from minimtp.kernels.cpu.matrices.code_products import Q8
from minimtp.kernels.cpu.matrices.packed_linear import (
    F32,
    F32_BYTES,
    Q4_0,
    Q4_0_BYTES,
    Q4_1,
    Q4_1_BYTES,
    Q5_0,
    Q5_0_BYTES,
    Q5_1,
    Q5_1_BYTES,
    Q8_0,
    Q8_0_BYTES,
)
from minimtp.kernels.cpu.matrices.panels import GROUP, PANEL, SCALE_BYTES

FOUR_BITS, ONE, EIGHT, SIXTEEN = np.uint8(15), np.uint8(1), np.float32(8), np.float32(16)
NO_MINIMUM = np.float32(-0.0)  # adding it changes no bit of any number
Q8_0_OFFSET = np.uint8(Q8.stored_offset)


def embedding(prepared, tokens):
    rows = np.empty((len(tokens), prepared.columns), np.float32)
    decode_rows(prepared.kind, prepared.panels, prepared.rows, np.asarray(tokens), rows)
    return rows


@compiled
def decode_rows(kind, panels, count, tokens, rows):
    """Write the rows for tokens (T,) of a matrix of `count` rows in panels to rows (T, K)."""
    for t in range(tokens.shape[0]):
        if not 0 <= tokens[t] < count:
            raise IndexError("embedding: there is no such token")
        panel, column, row = panels[tokens[t] // PANEL], tokens[t] % PANEL, rows[t]
        if kind == F32:
            weights = panel.view(np.float32)
            for k in range(row.shape[0]):
                row[k] = weights[k * (F32_BYTES // 4) + column]
        elif kind == Q4_0:
            _decode_groups(Q4_0, Q4_0_BYTES, panel, column, row)
        elif kind == Q4_1:
            _decode_groups(Q4_1, Q4_1_BYTES, panel, column, row)
        elif kind == Q5_0:
            _decode_groups(Q5_0, Q5_0_BYTES, panel, column, row)
        elif kind == Q5_1:
            _decode_groups(Q5_1, Q5_1_BYTES, panel, column, row)
        else:
            _decode_groups(Q8_0, Q8_0_BYTES, panel, column, row)


@compiled
def _decode_groups(kind, group_bytes, panel, column, row):
    for index in range(row.shape[0] // GROUP):
        group = panel[index * group_bytes : (index + 1) * group_bytes]
        values = row[index * GROUP : (index + 1) * GROUP]
        scale = _scale(group, column)
        if kind == Q8_0:
            _decode_eights(group[SCALE_BYTES:], column, scale, values)
        elif kind == Q4_0:
            _decode_fours(group[SCALE_BYTES:], column, EIGHT, scale, NO_MINIMUM, values)
        elif kind == Q5_0:
            _decode_fives(group[SCALE_BYTES:], column, SIXTEEN, scale, NO_MINIMUM, values)
        else:
            minimum, steps = _scale(group[SCALE_BYTES:], column), group[2 * SCALE_BYTES :]
            if kind == Q4_1:
                _decode_fours(steps, column, NO_MINIMUM, scale, minimum, values)
            else:
                _decode_fives(steps, column, NO_MINIMUM, scale, minimum, values)


@compiled
def _scale(group, column):
    return float16_as_float32(group[:SCALE_BYTES].view(np.uint16)[column])


@compiled
def _four_bits(steps, column, k):
    """Return the low four bits of value k of a group. steps: the bytes of its steps."""
    packed = steps[k // 8 * 4 * PANEL + 4 * column + k % 4]
    return packed >> 4 if k % 8 >= 4 else packed & FOUR_BITS


@compiled
def _decode_fours(steps, column, offset, scale, minimum, row):
    for k in range(GROUP):
        code = np.float32(_four_bits(steps, column, k))
        row[k] = (code - offset) * scale + minimum


@compiled
def _decode_fives(steps, column, offset, scale, minimum, row):
    top_bits = steps[GROUP // 2 * PANEL :]
    for k in range(GROUP):
        bit = 4 * column + k % 4
        top = top_bits[k // 4 * (PANEL // 2) + bit // 8] >> np.uint8(bit % 8) & ONE
        code = np.float32(_four_bits(steps, column, k)) + np.float32(top) * SIXTEEN
        row[k] = (code - offset) * scale + minimum


@compiled
def _decode_eights(steps, column, scale, row):
    for k in range(GROUP):
        packed = steps[k // 4 * 4 * PANEL + 4 * column + k % 4]
        row[k] = np.float32(np.int8(packed - Q8_0_OFFSET)) * scale
