"""The arithmetic of ggml's block formats Q5_0 and Q5_1 in plain arrays: Q4_0 and Q4_1 (blocks.py)
with a fifth bit for every code.

    Q5_0   d = extreme / -16, extreme: the first element of largest magnitude    codes -16..15
           code = min(31, trunc(x * (1/d) + 16.5)) - 16                          value code * d
    Q5_1   d = (max - min) / 31, m = min                                         codes 0..31
           code = min(31, trunc((x - min) * (1/d) + 0.5))                        value code * d + m

    a block    float16 d, in Q5_1 also float16 m | 32 top bits | 16 bytes of low four bits

Bit j of the top bits, little-endian, belongs to weight j. The low four bits are stored as in Q4_0.
The order of operations is part of the format.

Source: `quantize_row_q5_0_ref`, `quantize_row_q5_1_ref`, `quantize_row_q5_0_impl` and
`quantize_row_q5_1_impl` of ggml, built without contraction of a*b+c. Tests compare with the `gguf`
package byte for byte.
"""

from minimtp.backend import array_module, numpy
from minimtp.kernels.ggml.blocks import (
    GROUP_SIZE,
    as_stored,
    bytes_of_float16,
    codes_from_nibbles,
    float16_from_bytes,
    groups_float32,
    nibbles,
    reciprocal,
)
from minimtp.kernels.ggml.importance_weighted import weighted_groups
from minimtp.kernels.ggml.scale_search import search_affine, search_signed

Q5_0_BLOCK_BYTES = 22
Q5_1_BLOCK_BYTES = 24
TOP_BYTES = GROUP_SIZE // 8


def encode_q5_0(x):
    """x (N, K), K a multiple of 32 -> codes int8 (N, K) in -16..15, scales float32 (N, K/32).

    Each scale equals a float16.
    """
    xp = array_module(x)
    levels, step = levels_q5_0(x)
    codes = xp.minimum(levels, xp.float32(31)).astype(xp.int8) - xp.int8(16)
    return codes.reshape(x.shape), as_stored(step)


def levels_q5_0(x):
    """Return Q5_0's codes + 16 before clipping, float32 (N, K/32, 32) in 0..32, and the float32
    steps d (N, K/32, 1).
    """
    xp = array_module(x)
    groups = groups_float32(x)  # (N, K/32, 32)
    first_extreme = xp.argmax(xp.abs(groups), axis=-1)[..., None]
    step = xp.take_along_axis(groups, first_extreme, axis=-1) / xp.float32(-16)
    return xp.trunc(groups * reciprocal(step) + xp.float32(16.5)), step


def encode_q5_1(x):
    """x (N, K), K a multiple of 32 -> codes int8 (N, K) in 0..31, scales and minima float32 (N,
    K/32).

    Each scale and minimum equals a float16.
    """
    xp = array_module(x)
    groups = groups_float32(x)  # (N, K/32, 32)
    minimum = groups.min(axis=-1, keepdims=True)
    step = (groups.max(axis=-1, keepdims=True) - minimum) / xp.float32(31)
    levels = xp.trunc((groups - minimum) * reciprocal(step) + xp.float32(0.5))
    codes = xp.minimum(levels, xp.float32(31)).astype(xp.int8)
    return codes.reshape(x.shape), as_stored(step), as_stored(minimum)


def encode_q5_0_by_importance(x, importance):
    """`encode_q5_0` with searched scales (importance_weighted.py): x (N, K), importance float32
    (K,) -> the same shapes.
    """
    with numpy.errstate(all="ignore"):  # groups of zeros divide by zero; the search handles them
        codes, scale = search_signed(*weighted_groups(x, importance), 16)
    return codes.T.astype("int8").reshape(x.shape), as_stored(scale.reshape(x.shape[0], -1, 1))


def encode_q5_1_by_importance(x, importance):
    """`encode_q5_1` with searched scales: x (N, K), importance float32 (K,) -> the same shapes."""
    with numpy.errstate(all="ignore"):
        codes, scale, depth = search_affine(
            *weighted_groups(x, importance), 31, -0.9, 0.05, 36, guarded=True
        )
    shape = x.shape[0], -1, 1
    return (
        codes.T.astype("int8").reshape(x.shape),
        as_stored(scale.reshape(shape)),
        as_stored(-depth.reshape(shape)),
    )


def pack_q5_0(codes, scales):
    """codes int8 (N, K) in -16..15, scales (N, K/32) -> blocks uint8 (N, K/32 * 22)."""
    return _packed(codes + array_module(codes).int8(16), scales)


def unpack_q5_0(blocks):
    """blocks uint8 (N, K/32 * 22) -> codes int8 (N, K), scales float32 (N, K/32). Inverse of
    `pack_q5_0`.
    """
    blocks = blocks.reshape(len(blocks), -1, Q5_0_BLOCK_BYTES)
    return _codes(blocks[:, :, 2:]) - array_module(blocks).int8(16), float16_from_bytes(
        blocks[:, :, :2]
    )


def pack_q5_1(codes, scales, minima):
    """codes int8 (N, K) in 0..31, scales and minima (N, K/32) -> blocks uint8 (N, K/32 * 24)."""
    return _packed(codes, scales, minima)


def unpack_q5_1(blocks):
    """blocks uint8 (N, K/32 * 24) -> codes int8 (N, K), scales and minima float32 (N, K/32).
    Inverse of `pack_q5_1`.
    """
    blocks = blocks.reshape(len(blocks), -1, Q5_1_BLOCK_BYTES)
    scales, minima = float16_from_bytes(blocks[:, :, :2]), float16_from_bytes(blocks[:, :, 2:4])
    return _codes(blocks[:, :, 4:]), scales, minima


def _packed(codes, *halves):
    """codes 0..31 (N, K) and the float16 numbers of the blocks, (N, K/32) each -> blocks (N,
    bytes).
    """
    xp = array_module(codes)
    top = (codes >> 4).astype(xp.uint8).reshape(len(codes), -1, TOP_BYTES, 8)
    top_bytes = (top << xp.arange(8, dtype=xp.uint8)).sum(axis=-1, dtype=xp.uint8)
    parts = [*map(bytes_of_float16, halves), top_bytes, nibbles(codes & 15)]
    return xp.concatenate(parts, axis=-1).reshape(len(codes), -1)


def _codes(stored):
    """The bytes of blocks after their float16 numbers, (N, K/32, 20) -> codes 0..31, int8 (N,
    K).
    """
    xp = array_module(stored)
    top = stored[:, :, :TOP_BYTES, None] >> xp.arange(8, dtype=xp.uint8) & xp.uint8(1)
    low = codes_from_nibbles(stored[:, :, TOP_BYTES:])
    return low + (top.reshape(low.shape) << xp.uint8(4)).astype(xp.int8)
