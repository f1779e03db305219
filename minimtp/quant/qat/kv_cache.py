"""Keys and values in few bits: what attention reads when its cache stores codes instead of floats.

A long text's cache outgrows the weights. A position's key (after its rotation) and value, C numbers a head, are written once
and read ever after, so they can be stored as codes:

    int8    one scale for the C numbers of a head; nearly free
    int4    one scale for 32 of them, after a rotation

Keys have channels that are always large; at 4 bits such a channel takes the scale and leaves little for the others. Multiplied
by an orthonormal Hadamard matrix R, built of plus and minus 1 / sqrt(C), each number becomes a mixture of all, and what stood
out is spread (QuaRot, Ashkboos et al. 2024, arXiv 2404.00456). Rotated back after reading, nothing else changes: RᵀR = I, and
R Rᵀ cancels in q · k, so a kernel may as well rotate the query instead.

Training rounds with the same functions, straight through: the gradient passes as if nothing had been rounded. Decoding writes
into its cache what `rounded_rows` makes of keys and values: the numbers that such a cache would give back, held as floats, so
that the text is the deployed model's though the memory is not yet saved.
"""

from minimtp.backend import Array, array_module
from minimtp.engine.fused import CausalAttention
from minimtp.model.transformer import Attention
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.registry import Grid, grid_named

CACHES = ("float", "int8", "int4")
GRIDS = {"int8": "int8-restricted-channel", "int4": "int4-restricted-g32"}


def hadamard(head_dim: int, like: Array) -> Array:
    """The orthonormal matrix (C, C) that mixes channels; where C is no power of two, blocks of the largest that divides it."""
    xp = array_module(like)
    size = head_dim & -head_dim
    block = xp.ones((1, 1))
    while len(block) < size:
        block = xp.concatenate(
            [xp.concatenate([block, block], 1), xp.concatenate([block, -block], 1)]
        )
    return xp.kron(xp.eye(head_dim // size), block * size**-0.5).astype(like.dtype)


def encode_rows(rows: Array, cache: str, name: str = "the cache") -> tuple[Array, Scales]:
    """rows (M, C), a head's key or value each -> codes int8 (M, C) and scales, as the cache stores them.

    Raises UserError for values that are not finite.
    """
    rotated = rows @ hadamard(rows.shape[1], rows) if cache == "int4" else rows
    return _grid(cache).encode(rotated, name)


def decode_rows(codes: Array, scales: Scales, cache: str) -> Array:
    """What `encode_rows` stored, as float32 (M, C)."""
    values = _grid(cache).decode(codes, scales)
    return values @ hadamard(values.shape[1], values).T if cache == "int4" else values


def rounded_rows(rows: Array, cache: str) -> Array:
    """rows (..., C) as a cache of few bits gives them back, in their own shape and dtype."""
    flat = rows.reshape(-1, rows.shape[-1])
    return (
        decode_rows(*encode_rows(flat, cache), cache)
        .astype(rows.dtype, copy=False)
        .reshape(rows.shape)
    )


class RoundedCacheAttention(CausalAttention):
    """`CausalAttention` over keys and values as a cache of few bits holds them; cache: "int8" or "int4"."""

    straight_through = True

    def __init__(
        self, cache: str, heads: int, num_kv_heads: int, cosine: Array, sine: Array
    ) -> None:
        super().__init__(heads, num_kv_heads, cosine, sine)
        self.cache = cache

    def kept(self, rows: Array) -> Array:
        return rounded_rows(rows, self.cache)


class AttentionOverRoundedCache(Attention):
    """An `Attention` whose keys and values are read as a cache of few bits holds them; takes the other's place."""

    def __init__(self, attention: Attention, cache: str) -> None:
        vars(self).update(vars(attention))
        self.cache = cache

    def stored(self, rows: Array) -> Array:
        """What the cache makes of keys or values (..., C)."""
        return rounded_rows(rows, self.cache)

    def operation(self, cosine: Array, sine: Array) -> CausalAttention:
        return RoundedCacheAttention(self.cache, self.heads, self.num_kv_heads, cosine, sine)


def _grid(cache: str) -> Grid:
    return grid_named(GRIDS[cache])
