"""Reading the type Q5_K, which no grid of ours has: it becomes float32.

    176 bytes for 256 weights, as Q4_K (kernels/ggml/superblocks.py), with 32 bytes of top bits
    before the low four: bit g of byte j belongs to weight j of group g

Some files that llama.cpp calls Q5_K_M have such matrices.
"""

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.kernels.ggml.superblocks import Q4_K_BLOCK_BYTES, unpack_q4_k
from minimtp.quant.grids import Q4_K
from minimtp.quant.grids.superblocks import Q4_KScales

NAME, BLOCK_BYTES = "q5_k", 176


def is_finite(packed: Array) -> bool:
    """Return whether the float16 numbers of blocks, uint8 (N, bytes per row), are finite."""
    heads = packed.reshape(-1, BLOCK_BYTES)[:, :4]
    return bool(np.isfinite(np.ascontiguousarray(heads).view("<f2")).all())


def dequantize(packed: Array) -> Array:
    """Return blocks, uint8 (N, bytes per row), as float32 (N, K)."""
    blocks = packed.reshape(len(packed), -1, BLOCK_BYTES)
    rows, count, _ = blocks.shape
    with_four_bits = np.concatenate([blocks[..., :16], blocks[..., 48:]], axis=-1)
    low, *scales = unpack_q4_k(with_four_bits.reshape(rows, count * Q4_K_BLOCK_BYTES))
    bits = np.unpackbits(blocks[..., 16:48, None], axis=-1, bitorder="little")  # (N, B, 32, 8)
    top = np.ascontiguousarray(bits.swapaxes(2, 3)).reshape(rows, -1).astype(np.int8)
    return Q4_K.decode(low + 16 * top, Q4_KScales(*scales))
