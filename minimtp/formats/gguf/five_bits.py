"""Reading the types Q5_0, Q5_1 and Q5_K, which no grid of ours has: they become float32.

    Q5_0  22 bytes for 32 weights   d float16 | 32 top bits | 16 bytes of low four bits
          value = d (code - 16)
    Q5_1  24 bytes for 32 weights   d, m float16 | 32 top bits | 16 bytes of low four bits
          value = d code + m
    Q5_K  176 bytes for 256         as Q4_K (kernels/ggml/superblocks.py), with 32 bytes of top bits
                                    before the low four: bit g of byte j belongs to weight j of
                                    group g

Files that llama.cpp calls Q4_K_M have such matrices where rows are no multiples of 256.
"""

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.kernels.ggml.blocks import codes_from_nibbles, float16_from_bytes
from minimtp.kernels.ggml.superblocks import Q4_K_BLOCK_BYTES, unpack_q4_k
from minimtp.quant.grids import Q4_K
from minimtp.quant.grids.superblocks import Q4_KScales

BYTES = {"q5_0": 22, "q5_1": 24, "q5_k": 176}  # of a block
HALVES = {"q5_0": 1, "q5_1": 2, "q5_k": 2}  # float16 numbers at the start of a block


def is_finite(kind: str, packed: Array) -> bool:
    """Return whether the float16 numbers of blocks, uint8 (N, bytes per row), are finite."""
    heads = packed.reshape(-1, BYTES[kind])[:, : 2 * HALVES[kind]]
    return bool(np.isfinite(np.ascontiguousarray(heads).view("<f2")).all())


def dequantize(kind: str, packed: Array) -> Array:
    """Return blocks, uint8 (N, bytes per row), as float32 (N, K)."""
    blocks = packed.reshape(len(packed), -1, BYTES[kind])
    return _superblocks(blocks) if kind == "q5_k" else _blocks(kind, blocks)


def _blocks(kind: str, blocks: Array) -> Array:
    rows, count, _ = blocks.shape
    start = 2 * HALVES[kind]
    top = np.unpackbits(blocks[..., start : start + 4], axis=-1, bitorder="little")
    low = codes_from_nibbles(blocks[..., start + 4 :]).reshape(rows, count, 32)
    codes = (low + 16 * top.astype(np.int8)).astype(np.float32)
    step = float16_from_bytes(blocks[..., :2])[..., None]
    if kind == "q5_0":
        values = (codes - np.float32(16)) * step
    else:
        values = codes * step + float16_from_bytes(blocks[..., 2:4])[..., None]
    return values.reshape(rows, -1)


def _superblocks(blocks: Array) -> Array:
    rows, count, _ = blocks.shape
    with_four_bits = np.concatenate([blocks[..., :16], blocks[..., 48:]], axis=-1)
    low, *scales = unpack_q4_k(with_four_bits.reshape(rows, count * Q4_K_BLOCK_BYTES))
    bits = np.unpackbits(blocks[..., 16:48, None], axis=-1, bitorder="little")  # (N, B, 32, 8)
    top = np.ascontiguousarray(bits.swapaxes(2, 3)).reshape(rows, -1).astype(np.int8)
    return Q4_K.decode(low + 16 * top, Q4_KScales(*scales))
