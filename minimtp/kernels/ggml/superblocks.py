"""The arithmetic of ggml's K-quants Q4_K and Q6_K in plain arrays: 256 weights whose group scales
are themselves quantized.

Each group of 32 (or 16) weights has its own scale, but a float16 scale per group would add half a
bit per weight. So a super-block of 256 weights stores the scales as small integers with one float16
step for all of them:

    Q4_K   8 groups of 32   value = (d * scale) * code - (dmin * depth)    4.5 bits per weight
           code 0..15, scale and depth 0..63
    Q6_K  16 groups of 16   value = (d * scale) * code                     6.5625 bits per weight
           code -32..31, scale -128..127

Every product here is exact in float32 (11 + 6 + 4 and 11 + 7 + 6 bits). Only Q4_K's subtraction
rounds, so all readers get the same numbers. Encoding takes three steps: search a scale for each
group (`scale_search.py`), quantize the scales, then choose the codes again with the stored scales.
If a stored scale is 0, the codes of the search remain in the file. They do not matter, because all
codes then have the same value.

    Q4_K, 144 bytes   d float16 | dmin float16 | 12 bytes of scales | 128 bytes of codes
        codes         in each of 4 chunks of 64 weights, byte j holds weight j in its low and
                      weight j + 32 in its high four bits
        scales        scale j and depth j for j = 0..3: low six bits of bytes j and j + 4.
                      For j = 4..7: the low four bits share byte j + 4, the top two bits are the
                      top bits of bytes j - 4 and j
    Q6_K, 210 bytes   128 bytes of low four bits | 64 bytes of top two bits | 16 scales int8 |
                      d float16
        codes         in each half of 128 weights, byte j of 64 holds the low bits of weights j and
                      j + 64, byte j of 32 holds the top bits of weights j, j + 32, j + 64, j + 96,
                      from the lowest bits up

`importance`, one number per column (the mean square of its inputs), weights the errors. With it,
ggml searches with other weights and more trials. Source: `quantize_row_q4_K_ref`,
`quantize_row_q6_K_ref` and their `_impl` variants in ggml.
"""

from minimtp.backend import array_module, numpy
from minimtp.kernels.ggml.blocks import bytes_of_float16, float16_from_bytes
from minimtp.kernels.ggml.scale_search import (
    TOO_SMALL,
    in_order,
    nearest_integer,
    search_affine,
    search_positive,
    search_signed,
)

SUPER_SIZE = 256
Q4_K_BLOCK_BYTES, Q6_K_BLOCK_BYTES = 144, 210
Q4_K_GROUP, Q6_K_GROUP = 32, 16


def encode_q4_k(x, importance=None):
    """x (N, K), K a multiple of 256 -> codes int8 (N, K); d, dmin float32 (N, K/256); scales,
    depths uint8 (N, K/256, 8).

    importance: None or float32 (K,).
    """
    xp = array_module(x)
    groups = _grouped(x, Q4_K_GROUP)  # (32, M * 8), M super-blocks
    with numpy.errstate(all="ignore"):  # groups of zeros divide by zero; corrected at the end
        if importance is None:
            weights = xp.sqrt(in_order(groups * groups) / xp.float32(Q4_K_GROUP)) + xp.abs(groups)
            codes, scale, depth = search_affine(groups, weights, 15, -1.0, 0.1, 20, guarded=False)
            scales, d = _sixty_three_steps(scale.reshape(-1, 8))
            depths, dmin = _sixty_three_steps(depth.reshape(-1, 8))
        else:
            blocks = _grouped(x, SUPER_SIZE)  # (256, M)
            spread = xp.float32(2) * in_order(blocks * blocks) / xp.float32(SUPER_SIZE)
            weights = _importance_columns(x, importance, Q4_K_GROUP) * xp.sqrt(
                xp.repeat(spread, 8) + groups * groups
            )
            codes, scale, depth = search_affine(groups, weights, 15, -0.9, 0.05, 36, guarded=True)
            totals = in_order(weights).reshape(-1, 8).T
            scales, d = search_positive(scale.reshape(-1, 8).T, totals, 63)
            depths, dmin = search_positive(depth.reshape(-1, 8).T, totals, 63)
            scales, depths = scales.T, depths.T
        d, dmin = _as_float16(d), _as_float16(dmin)
        step = (d[:, None] * scales.astype(xp.float32)).reshape(-1)
        offset = (dmin[:, None] * depths.astype(xp.float32)).reshape(-1)
        again = xp.clip(nearest_integer((groups + offset) / step), 0, 15)
    codes = xp.where(step != 0, again, codes)
    shape = x.shape[0], x.shape[1] // SUPER_SIZE
    scales, depths = (a.astype(xp.uint8).reshape(*shape, 8) for a in (scales, depths))
    return _ungrouped(codes, x.shape), d.reshape(shape), dmin.reshape(shape), scales, depths


def encode_q6_k(x, importance=None):
    """x (N, K), K a multiple of 256 -> codes int8 (N, K), d float32 (N, K/256), scales int8 (N,
    K/256, 16).

    importance: None or float32 (K,).
    """
    xp = array_module(x)
    groups = _grouped(x, Q6_K_GROUP)  # (16, M * 16), M super-blocks
    with numpy.errstate(all="ignore"):
        weights = (
            groups * groups
            if importance is None
            else _importance_columns(x, importance, Q6_K_GROUP)
        )
        codes, scale = search_signed(groups, weights, 32)
        scale = scale.reshape(-1, 16)
        largest = xp.take_along_axis(
            scale, xp.argmax(xp.abs(scale), axis=1)[:, None], axis=1
        )  # (M, 1)
        empty = xp.abs(largest) < TOO_SMALL
        inverse = xp.float32(-128) / largest
        d = xp.where(empty, xp.float32(0), _as_float16(xp.float32(1) / inverse))
        scales = xp.where(empty, 0, xp.minimum(nearest_integer(inverse * scale), 127))
        step = (d * scales.astype(xp.float32)).reshape(-1)
        again = xp.clip(nearest_integer(groups / step), -32, 31)
    codes = xp.where(step != 0, again, xp.where(xp.repeat(empty[:, 0], 16), -32, codes))
    shape = x.shape[0], x.shape[1] // SUPER_SIZE
    return _ungrouped(codes, x.shape), d.reshape(shape), scales.astype(xp.int8).reshape(*shape, 16)


def pack_q4_k(codes, d, dmin, scales, depths):
    """The result of `encode_q4_k` -> blocks uint8 (N, K/256 * 144)."""
    xp = array_module(codes)
    rows, blocks = d.shape
    first = [numbers[..., :4] | (numbers[..., 4:] >> 4 << 6) for numbers in (scales, depths)]
    last = (scales[..., 4:] & 15) | (depths[..., 4:] << 4)
    chunks = codes.astype(xp.uint8).reshape(rows, blocks, 4, 2, 32)
    nibbles = (chunks[:, :, :, 0] | (chunks[:, :, :, 1] << 4)).reshape(rows, blocks, 128)
    return xp.concatenate(
        [bytes_of_float16(d), bytes_of_float16(dmin), *first, last, nibbles], axis=-1
    ).reshape(rows, -1)


def unpack_q4_k(packed):
    """blocks uint8 (N, K/256 * 144) -> the arguments of `pack_q4_k`."""
    xp = array_module(packed)
    packed = packed.reshape(packed.shape[0], -1, Q4_K_BLOCK_BYTES)
    rows, blocks, _ = packed.shape
    scales, depths, last = packed[..., 4:8], packed[..., 8:12], packed[..., 12:16]
    nibbles = packed[..., 16:].reshape(rows, blocks, 4, 1, 32)
    codes = xp.concatenate([nibbles & 15, nibbles >> 4], axis=3).astype(xp.int8).reshape(rows, -1)
    scales = xp.concatenate([scales & 63, (last & 15) | (scales >> 6 << 4)], axis=-1)
    depths = xp.concatenate([depths & 63, (last >> 4) | (depths >> 6 << 4)], axis=-1)
    return (
        codes,
        float16_from_bytes(packed[..., :2]),
        float16_from_bytes(packed[..., 2:4]),
        scales,
        depths,
    )


def pack_q6_k(codes, d, scales):
    """The result of `encode_q6_k` -> blocks uint8 (N, K/256 * 210)."""
    xp = array_module(codes)
    rows, blocks = d.shape
    halves = (codes + xp.int8(32)).astype(xp.uint8).reshape(rows, blocks, 2, 4, 32)
    low, top = halves & 15, halves >> 4
    low = (low[:, :, :, :2] | (low[:, :, :, 2:] << 4)).reshape(rows, blocks, 128)
    top = (
        top[..., 0, :] | (top[..., 1, :] << 2) | (top[..., 2, :] << 4) | (top[..., 3, :] << 6)
    ).reshape(rows, blocks, 64)
    scale_bytes = xp.ascontiguousarray(scales).view(xp.uint8)
    return xp.concatenate([low, top, scale_bytes, bytes_of_float16(d)], axis=-1).reshape(rows, -1)


def unpack_q6_k(packed):
    """blocks uint8 (N, K/256 * 210) -> the arguments of `pack_q6_k`."""
    xp = array_module(packed)
    packed = packed.reshape(packed.shape[0], -1, Q6_K_BLOCK_BYTES)
    rows, blocks, _ = packed.shape
    low = packed[..., :128].reshape(rows, blocks, 2, 2, 32)
    top = packed[..., 128:192].reshape(rows, blocks, 2, 1, 32)
    low = xp.concatenate([low & 15, low >> 4], axis=3)  # (N, K/256, 2, 4, 32)
    top = xp.concatenate([top >> shift & 3 for shift in (0, 2, 4, 6)], axis=3)
    codes = (low | (top << 4)).astype(xp.int8).reshape(rows, -1) - xp.int8(32)
    return (
        codes,
        float16_from_bytes(packed[..., 208:]),
        xp.ascontiguousarray(packed[..., 192:208]).view(xp.int8),
    )


def _sixty_three_steps(x):
    """(M, 8) numbers >= 0 -> integers 0..63 and the step (M,) between them. The largest number is
    63 steps.
    """
    xp = array_module(x)
    largest = xp.maximum(x.max(axis=1), xp.float32(0))
    inverse = xp.where(largest > 0, xp.float32(63) / largest, xp.float32(0))
    return xp.minimum(nearest_integer(inverse[:, None] * x) & 255, 63), largest / xp.float32(63)


def _grouped(x, size):
    """(N, K) -> float32 (size, N * K / size): groups of neighbours along the first axis."""
    xp = array_module(x)
    return xp.ascontiguousarray(x.astype(xp.float32, copy=False).reshape(-1, size).T)


def _ungrouped(codes, shape):
    xp = array_module(codes)
    return xp.ascontiguousarray(codes.T).astype(xp.int8).reshape(shape)


def _importance_columns(x, importance, size):
    """(K,) -> (size, N * K / size): the importance of each element of `_grouped(x, size)`."""
    xp = array_module(x)
    return xp.tile(_grouped(importance[None], size), (1, x.shape[0]))


def _as_float16(x):
    xp = array_module(x)
    return x.astype(xp.float16).astype(xp.float32)
