"""Packing: codes and scales as bytes, row after row without gaps.

ggml's formats are blocks along each row, byte for byte what other programs read (`kernels/ggml/blocks.py` and
`kernels/ggml/superblocks.py` have the layouts). Grids over any groups have no format that everybody reads; a row of theirs is

    the scales of its groups, float16 or float32 | zero points as signed bytes (affine only) | codes, see `pack_bits`

little-endian throughout, codes counted from the grid's smallest one. Every row can be read alone: the scale of a whole matrix
stands in each of its rows. So that a row's length says how many columns it has, their number has to be a multiple of 8.
"""

from typing import Any

from minimtp.backend import Array, array_module
from minimtp.errors import UserError
from minimtp.quant.bit_packing import pack_bits, packed_size, unpack_bits
from minimtp.quant.grids.registry import BlockGrid, Grid
from minimtp.quant.grids.uniform import AffineScales

WHOLE_BYTES = 8  # columns whose codes end with a byte, whatever their bits


def pack(grid: Grid, codes: Array, scales: Any) -> Array:
    """codes int8 (N, K) and scales as `grid.encode` gives them -> uint8 (N, row_bytes(grid, K)).

    Raises ValueError for shapes that do not belong together and for codes that the grid does not have, UserError for a
    number of columns that cannot be packed.
    """
    rows, columns = codes.shape
    if codes.size and not (
        grid.smallest_code <= int(codes.min()) and int(codes.max()) <= grid.largest_code
    ):
        raise ValueError(
            f"{grid.name} has codes {grid.smallest_code}..{grid.largest_code}, got others"
        )
    size = row_bytes(grid, columns)
    expected = grid.scales_shape(rows, columns)
    for numbers in scales if isinstance(scales, tuple) else (scales,):
        if numbers.shape[:2] != expected:
            raise ValueError(
                f"codes of shape {codes.shape} need scales of shape {expected}, not {numbers.shape[:2]}"
            )
    if isinstance(grid, BlockGrid):
        return grid.pack(codes, scales)
    xp = array_module(codes)
    packed = xp.empty((rows, size), xp.uint8)
    step, *zero = scales if isinstance(scales, tuple) else (scales,)
    step = xp.ascontiguousarray(step.astype(_stored_type(grid)))
    parts = [step.view(xp.uint8), *(numbers.astype(xp.int8).view(xp.uint8) for numbers in zero)]
    parts.append(
        pack_bits((codes.astype(xp.int16) - grid.smallest_code).astype(xp.uint8), grid.bits)
    )
    begin = 0
    for part in parts:
        packed[:, begin : begin + part.shape[1]] = (
            part  # one row of scales for a whole matrix goes into all
        )
        begin += part.shape[1]
    return packed


def unpack(grid: Grid, packed: Array) -> tuple[Array, Any]:
    """uint8 (N, row bytes) -> codes int8 (N, K) and scales; undoes `pack` exactly.

    Raises UserError when the rows are not whole rows of the grid: the array is something else, or was cut off.
    """
    rows, columns = matrix_shape(grid, packed)
    if isinstance(grid, BlockGrid):
        return grid.unpack(packed)
    xp = array_module(packed)
    scale_rows, groups = grid.scales_shape(rows, columns)
    step_bytes = groups * grid.bits_per_scale // 8
    begin = step_bytes + groups * grid.bits_per_zero // 8
    scales = (
        xp.ascontiguousarray(packed[:scale_rows, :step_bytes])
        .view(_stored_type(grid))
        .astype(xp.float32)
    )
    if grid.bits_per_zero:
        zero = (
            xp.ascontiguousarray(packed[:scale_rows, step_bytes:begin])
            .view(xp.int8)
            .astype(xp.float32)
        )
        scales = AffineScales(scales, zero)
    codes = unpack_bits(packed[:, begin:], grid.bits, columns).astype(xp.int16) + grid.smallest_code
    return codes.astype(xp.int8), scales


def row_bytes(grid: Grid, columns: int) -> int:
    """Bytes of a packed row of `columns` weights. Raises UserError for a number of columns that cannot be packed."""
    if isinstance(grid, BlockGrid):
        grid.check_columns((1, columns), "the matrix")
        return columns // grid.group_size * grid.block_bytes
    if columns % WHOLE_BYTES:
        raise UserError(
            f"rows of {columns} weights cannot be packed on {grid.name}: make them multiples of {WHOLE_BYTES} long"
        )
    return _row_bytes(grid, columns)


def matrix_shape(grid: Grid, packed: Array) -> tuple[int, int]:
    """(N, K) of the matrix that the bytes hold; raises what `unpack` raises."""
    is_bytes = packed.ndim == 2 and packed.dtype == array_module(packed).uint8
    if isinstance(grid, BlockGrid):
        if not is_bytes or packed.shape[1] % grid.block_bytes:
            raise UserError(
                f"an array of shape {packed.shape} and type {packed.dtype} does not hold {grid.name} blocks: "
                f"rows must be multiples of {grid.block_bytes} bytes"
            )
        return packed.shape[0], packed.shape[1] // grid.block_bytes * grid.group_size
    columns = 0
    while is_bytes and _row_bytes(grid, columns) < packed.shape[1]:
        columns += WHOLE_BYTES
    if not is_bytes or _row_bytes(grid, columns) != packed.shape[1]:
        raise UserError(
            f"an array of shape {packed.shape} and type {packed.dtype} does not hold whole rows of {grid.name}"
        )
    return packed.shape[0], columns


def quantize(grid: Grid, x: Array, name: str = "the array") -> Array:
    """Float weights (N, K) -> uint8 (N, row bytes); raises what `grid.encode` and `pack` raise."""
    return pack(grid, *grid.encode(x, name))


def dequantize(grid: Grid, packed: Array) -> Array:
    """uint8 (N, row bytes) -> float32 (N, K), exactly the numbers that fake quantization computed with."""
    return grid.decode(*unpack(grid, packed))


def _row_bytes(grid: Grid, columns: int) -> int:
    groups = grid.scales_shape(1, columns)[1]
    return groups * (grid.bits_per_scale + grid.bits_per_zero) // 8 + packed_size(
        columns, grid.bits
    )


def _stored_type(grid: Grid) -> str:
    return {"float16": "<f2", "float32": "<f4"}[grid.scale_type]
