"""Packing: codes and scales as the bytes that ggml reads, block after block along each row.

A block holds one group of 32. Two of Q4_0's four-bit codes share a byte, and which two is part of the format:

    Q4_0, 18 bytes    scale float16 | byte j = (code[j] + 8) + 16 * (code[j + 16] + 8),  j = 0..15
    Q8_0, 34 bytes    scale float16 | code[0] .. code[31] as signed bytes

Scales are little-endian. Rows follow one another without gaps, so an (N, K) matrix is N * K/32 blocks.
The byte arithmetic is in `minimtp.kernels.blocks`, where the kernels that read blocks find it too.
"""

from typing import Any

from minimtp.backend import array_module
from minimtp.errors import UserError
from minimtp.kernels import blocks
from minimtp.quant.grids import Grid

Array = Any  # a numpy.ndarray or a cupy.ndarray

_PACK = {"q4_0": blocks.pack_q4_0, "q8_0": blocks.pack_q8_0}
_UNPACK = {"q4_0": blocks.unpack_q4_0, "q8_0": blocks.unpack_q8_0}
BLOCK_BYTES = {"q4_0": blocks.Q4_0_BLOCK_BYTES, "q8_0": blocks.Q8_0_BLOCK_BYTES}


def pack(grid: Grid, codes: Array, scales: Array) -> Array:
    """codes int8 (N, K), scales (N, K/32) as `grid.encode` gives them -> blocks uint8 (N, K/32 * block bytes).

    Raises ValueError for shapes that do not belong together and for codes that the grid does not have.
    """
    rows, columns = codes.shape
    if columns % grid.group_size or scales.shape != (rows, columns // grid.group_size):
        raise ValueError(f"codes of shape {codes.shape} need one scale per {grid.group_size}, not {scales.shape}")
    if codes.size and not (grid.smallest_code <= int(codes.min()) and int(codes.max()) <= grid.largest_code):
        raise ValueError(f"{grid.name} has codes {grid.smallest_code}..{grid.largest_code}, got others")
    return _PACK[grid.name](codes, scales)


def unpack(grid: Grid, packed: Array) -> tuple[Array, Array]:
    """blocks uint8 (N, K/32 * block bytes) -> codes int8 (N, K), scales float32 (N, K/32); undoes `pack` exactly.

    Raises UserError when the rows are not whole blocks of bytes: the array is something else, or was cut off.
    """
    matrix_shape(grid, packed)
    return _UNPACK[grid.name](packed)


def matrix_shape(grid: Grid, packed: Array) -> tuple[int, int]:
    """(N, K) of the matrix that the blocks hold; raises what `unpack` raises."""
    if packed.ndim != 2 or packed.dtype != array_module(packed).uint8 or packed.shape[1] % BLOCK_BYTES[grid.name]:
        raise UserError(
            f"an array of shape {packed.shape} and type {packed.dtype} does not hold {grid.name} blocks: "
            f"rows must be multiples of {BLOCK_BYTES[grid.name]} bytes"
        )
    return packed.shape[0], packed.shape[1] // BLOCK_BYTES[grid.name] * grid.group_size


def quantize(grid: Grid, x: Array, name: str = "the array") -> Array:
    """Float weights (N, K) -> blocks uint8; raises what `grid.encode` raises."""
    return pack(grid, *grid.encode(x, name))


def dequantize(grid: Grid, packed: Array) -> Array:
    """Blocks uint8 (N, K/32 * block bytes) -> float32 (N, K), exactly the numbers that fake quantization computed with."""
    return grid.decode(*unpack(grid, packed))
