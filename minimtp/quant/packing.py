"""Packing: codes and scales as bytes, row after row without gaps.

ggml's formats are blocks along each row, byte for byte as other programs read them (their layouts
are in `kernels/ggml/blocks.py` and `kernels/ggml/superblocks.py`). Grids for groups of any size
have no common file format. Their rows are

    scales of the groups | zero points (affine only) | codes, see `pack_bits`

with scales as float16 or float32 and zero points as signed bytes, little-endian throughout, with
codes counted from the grid's smallest one. Every row can be read alone, so a scale for the whole
matrix is repeated in each row. The length of a row determines its number of columns, which must be
a multiple of 8.
"""

from minimtp.backend import Array, array_module
from minimtp.errors import UserError
from minimtp.quant.bit_packing import pack_bits, packed_size, unpack_bits
from minimtp.quant.grids import BlockGrid, Grid, GroupedGrid
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.uniform import AffineScales

WEIGHTS_AT_ONCE = 1 << 20  # in `quantize`
WHOLE_BYTES = 8  # columns whose codes end with a byte, for any number of bits


def pack(grid: Grid, codes: Array, scales: Scales) -> Array:
    """codes int8 (N, K) and scales from `grid.encode` -> uint8 (N, row_bytes(grid, K)).

    Raises ValueError if shapes do not match or a code is not the grid's, UserError if K columns
    cannot be packed.
    """
    rows, columns = codes.shape
    if codes.size and not grid.min_code <= int(codes.min()) <= int(codes.max()) <= grid.max_code:
        raise ValueError(f"{grid.name} has codes {grid.min_code}..{grid.max_code}, got others")
    size = row_bytes(grid, columns)
    expected = grid.scales_shape(rows, columns)
    for numbers in scales if isinstance(scales, tuple) else (scales,):
        if numbers.shape[:2] != expected:
            raise ValueError(
                f"codes of shape {codes.shape} need scales of shape {expected}, not "
                f"{numbers.shape[:2]}"
            )
    if isinstance(grid, BlockGrid):
        return grid.pack(codes, scales)
    xp = array_module(codes)
    step, *zero = scales if isinstance(scales, tuple) else (scales,)
    step = xp.ascontiguousarray(step.astype(_stored_type(grid)))
    unsigned = (codes.astype(xp.int16) - grid.min_code).astype(xp.uint8)
    parts = [step.view(xp.uint8)]
    parts += [numbers.astype(xp.int8).view(xp.uint8) for numbers in zero]
    parts.append(pack_bits(unsigned, grid.bits))
    packed = xp.empty((rows, size), xp.uint8)
    begin = 0
    for part in parts:
        end = begin + part.shape[1]
        packed[:, begin:end] = part  # the single row of a whole matrix's scale goes into all rows
        begin = end
    return packed


def unpack(grid: Grid, packed: Array) -> tuple[Array, Scales]:
    """uint8 (N, row bytes) -> codes int8 (N, K) and scales. The exact inverse of `pack`.

    Raises UserError if the rows are not whole rows of the grid: the array holds something else, or
    is cut off.
    """
    rows, columns = matrix_shape(grid, packed)
    if isinstance(grid, BlockGrid):
        return grid.unpack(packed)
    xp = array_module(packed)
    scale_rows, groups = grid.scales_shape(rows, columns)
    step_end = groups * grid.bits_per_scale // 8
    zero_end = step_end + groups * grid.bits_per_zero // 8
    step_bytes = xp.ascontiguousarray(packed[:scale_rows, :step_end])
    scales = step_bytes.view(_stored_type(grid)).astype(xp.float32)
    if grid.bits_per_zero:
        zero_bytes = xp.ascontiguousarray(packed[:scale_rows, step_end:zero_end])
        scales = AffineScales(scales, zero_bytes.view(xp.int8).astype(xp.float32))
    unsigned = unpack_bits(packed[:, zero_end:], grid.bits, columns)
    return (unsigned.astype(xp.int16) + grid.min_code).astype(xp.int8), scales


def row_bytes(grid: Grid, columns: int) -> int:
    """Return the bytes of a packed row of `columns` weights. Raises UserError if they cannot be
    packed.
    """
    if isinstance(grid, BlockGrid):
        grid.check_columns((1, columns), "the matrix")
        return columns // grid.group_size * grid.block_bytes
    if columns % WHOLE_BYTES:
        raise UserError(
            f"rows of {columns} weights cannot be packed on {grid.name}: make them multiples of "
            f"{WHOLE_BYTES} long"
        )
    return _row_bytes(grid, columns)


def matrix_shape(grid: Grid, packed: Array) -> tuple[int, int]:
    """Return (N, K) of the packed matrix. Raises the errors of `unpack`."""
    is_bytes = packed.ndim == 2 and packed.dtype == array_module(packed).uint8
    if isinstance(grid, BlockGrid):
        if not is_bytes or packed.shape[1] % grid.block_bytes:
            raise UserError(
                f"an array of shape {packed.shape} and type {packed.dtype} does not hold "
                f"{grid.name} blocks: "
                f"rows must be multiples of {grid.block_bytes} bytes"
            )
        return packed.shape[0], packed.shape[1] // grid.block_bytes * grid.group_size
    columns = 0
    while is_bytes and _row_bytes(grid, columns) < packed.shape[1]:
        columns += WHOLE_BYTES
    if not is_bytes or _row_bytes(grid, columns) != packed.shape[1]:
        raise UserError(
            f"an array of shape {packed.shape} and type {packed.dtype} does not hold whole rows of "
            f"{grid.name}"
        )
    return packed.shape[0], columns


def quantize(grid: Grid, x: Array, name: str = "the array") -> Array:
    """Float weights (N, K) -> uint8 (N, row bytes).

    If every row has its own scales, a slice of the rows is packed at a time, because the temporary
    arrays of `encode` are several times larger than x.

    Raises the errors of `grid.encode` and `pack`.
    """
    rows, columns = x.shape
    at_once = max(1, WEIGHTS_AT_ONCE // max(1, columns))
    if rows <= at_once or grid.scales_shape(rows, columns)[0] != rows:
        return pack(grid, *grid.encode(x, name))
    packed = array_module(x).empty((rows, row_bytes(grid, columns)), "uint8")
    for start in range(0, rows, at_once):
        part = slice(start, start + at_once)
        packed[part] = pack(grid, *grid.encode(x[part], name))
    return packed


def dequantize(grid: Grid, packed: Array) -> Array:
    """uint8 (N, row bytes) -> float32 (N, K), exactly the numbers that fake quantization computed
    with.
    """
    return grid.decode(*unpack(grid, packed))


def has_finite_scales(grid: Grid, packed: Array) -> bool:
    """Return whether every float16 or float32 number in the packed rows is finite.

    Integer codes are always finite, so then every weight is.
    """
    xp = array_module(packed)
    if isinstance(grid, BlockGrid):
        blocks = packed.reshape(packed.shape[0], -1, grid.block_bytes)
        parts = [(blocks[..., at : at + 2], "<f2") for at in grid.float16_at]
    else:
        rows, columns = matrix_shape(grid, packed)
        scale_rows, groups = grid.scales_shape(rows, columns)
        stored = packed[:scale_rows, : groups * grid.bits_per_scale // 8]
        parts = [(stored, _stored_type(grid))]
    return all(bool(xp.isfinite(xp.ascontiguousarray(a).view(kind)).all()) for a, kind in parts)


def _row_bytes(grid: GroupedGrid, columns: int) -> int:
    groups = grid.scales_shape(1, columns)[1]
    scale_bits = groups * (grid.bits_per_scale + grid.bits_per_zero)
    return scale_bits // 8 + packed_size(columns, grid.bits)


def _stored_type(grid: GroupedGrid) -> str:
    return {"float16": "<f2", "float32": "<f4"}[grid.scale_type]
