"""The quantized KV cache: keys and values as codes instead of floats.

The KV cache of a long sequence is larger than the weights. The key (after its rotation) and the
value of a position, C numbers per head, are written once and read by every later token, so they can
be stored as codes:

    int8     one scale for the C numbers of a head; almost no loss in quality
    int4     one scale per 32 numbers, after a rotation
    float16  the nearest numbers of 16 bits; only to measure what that cache of a decoder costs

Keys have channels that are always large. At 4 bits such a channel determines the scale and leaves
little precision for the others. A product with an orthonormal Hadamard matrix R, built of plus and
minus 1 / sqrt(C), turns each number into a mixture of all, which spreads the outliers (QuaRot,
Ashkboos et al. 2024, arXiv 2404.00456). Rotating back after reading restores everything else: RᵀR =
I. R Rᵀ also cancels in q · k, so a kernel may rotate the query instead.

Training rounds with the same functions and a straight-through gradient. On the CPU,
decoding has a cache of int8 codes, about a quarter of the size of float32 (kernels/plain/cache.py).
On a GPU, and at 4 bits, it writes the rounded keys and values into its cache as floats. So the
output is the same, but no memory is saved.
"""

from functools import partial

from minimtp.backend import Array, array_module
from minimtp.engine.fused import CausalAttention
from minimtp.engine.module import Module, replace_modules
from minimtp.model.transformer import Attention
from minimtp.quant.grids import Grid, grid_named
from minimtp.quant.grids.base import Scales

CACHES = ("float", "int8", "int4")  # of training
GRIDS = {"float16": "f16", "int8": "int8-restricted-channel", "int4": "int4-restricted-g32"}


def hadamard(head_dim: int, like: Array) -> Array:
    """Return the orthonormal matrix (C, C) that mixes channels, with the device and dtype of
    `like`.

    If C is not a power of two, it consists of blocks of the largest power of two that divides C.
    """
    xp = array_module(like)
    size = head_dim & -head_dim
    block = xp.ones((1, 1))
    while len(block) < size:
        above, below = xp.concatenate([block, block], 1), xp.concatenate([block, -block], 1)
        block = xp.concatenate([above, below])
    return xp.kron(xp.eye(head_dim // size), block * size**-0.5).astype(like.dtype)


def encode_rows(rows: Array, cache: str) -> tuple[Array, Scales]:
    """rows (M, C), each the key or value of a head -> codes int8 (M, C) and scales, as the cache
    stores them.

    Raises UserError if a value is not finite.
    """
    rotated = rows @ hadamard(rows.shape[1], rows) if cache == "int4" else rows
    return _grid(cache).encode(rotated, "the cache")


def decode_rows(codes: Array, scales: Scales, cache: str) -> Array:
    """Return the rows that `encode_rows` stored, float32 (M, C)."""
    values = _grid(cache).decode(codes, scales)
    return values @ hadamard(values.shape[1], values).T if cache == "int4" else values


def fake_quantize_rows(rows: Array, cache: str) -> Array:
    """rows (..., C) -> the values that a quantized cache returns for them, in the same shape and
    dtype.
    """
    flat = rows.reshape(-1, rows.shape[-1])  # (M, C)
    values = decode_rows(*encode_rows(flat, cache), cache)
    return values.astype(rows.dtype, copy=False).reshape(rows.shape)


class QuantizedCacheAttention(CausalAttention):
    """`CausalAttention` over keys and values from a quantized cache. cache: one of GRIDS."""

    straight_through = True

    def __init__(
        self, cache: str, num_heads: int, num_kv_heads: int, cosine: Array, sine: Array
    ) -> None:
        super().__init__(num_heads, num_kv_heads, cosine, sine)
        self.cache = cache

    def quantize_kv(self, rows: Array) -> Array:
        return fake_quantize_rows(rows, self.cache)


class AttentionWithQuantizedCache(Attention):
    """An `Attention` that reads its keys and values from a quantized cache. It reuses the modules
    of `attention`.
    """

    def __init__(self, attention: Attention, cache: str) -> None:
        vars(self).update(vars(attention))
        self.cache = cache
        self.quantize_kv = partial(fake_quantize_rows, cache=cache)

    def operation(self, cosine: Array, sine: Array) -> CausalAttention:
        return QuantizedCacheAttention(self.cache, self.num_heads, self.num_kv_heads, cosine, sine)


def with_cache(model: Module, cache: str) -> Module:
    """Let every attention of the model read keys and values from a cache, "float" or of GRIDS."""
    if cache == "float":
        return model

    def swap(name: str, module: Module) -> Module | None:
        return AttentionWithQuantizedCache(module, cache) if isinstance(module, Attention) else None

    return replace_modules(model, swap)


def _grid(cache: str) -> Grid:
    return grid_named(GRIDS[cache])
