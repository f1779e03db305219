"""Embedding lookups in a matrix stored as panels (panels.py). A tied output matrix is also the
table of token embeddings.

Therefore the table does not have to be stored a second time. A row is scattered over its panel, one
number or dword per cache line. Collecting it takes less than a microsecond.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.math import float16_as_float32
from minimtp.kernels.cpu.matrices.code_products import Q8
from minimtp.kernels.cpu.matrices.packed_linear import F32, F32_BYTES, Q4_0, Q4_0_BYTES, Q8_0_BYTES
from minimtp.kernels.cpu.matrices.panels import GROUP, PANEL, SCALE_BYTES

FOUR_BITS, EIGHT = np.uint8(15), np.float32(8)
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
            for group in range(row.shape[0] // GROUP):
                _decode_q4_0(
                    panel[group * Q4_0_BYTES : (group + 1) * Q4_0_BYTES],
                    column,
                    row[group * GROUP :],
                )
        else:
            for group in range(row.shape[0] // GROUP):
                _decode_q8_0(
                    panel[group * Q8_0_BYTES : (group + 1) * Q8_0_BYTES],
                    column,
                    row[group * GROUP :],
                )


@compiled
def _scale(group, column):
    return float16_as_float32(group[:SCALE_BYTES].view(np.uint16)[column])


@compiled
def _decode_q4_0(group, column, row):
    scale = _scale(group, column)
    for k in range(GROUP):
        packed = group[SCALE_BYTES + k // 8 * 4 * PANEL + 4 * column + k % 4]
        code = packed >> 4 if k % 8 >= 4 else packed & FOUR_BITS
        row[k] = (np.float32(code) - EIGHT) * scale


@compiled
def _decode_q8_0(group, column, row):
    scale = _scale(group, column)
    for k in range(GROUP):
        packed = group[SCALE_BYTES + k // 4 * 4 * PANEL + 4 * column + k % 4]
        row[k] = np.float32(np.int8(packed - Q8_0_OFFSET)) * scale
