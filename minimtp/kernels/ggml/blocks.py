"""The arithmetic of ggml's block formats Q4_0, Q4_1 and Q8_0 in plain arrays, defined only here.

A row of K weights is cut into groups of 32. A group is stored as one float16 scale (the step
between two levels) and 32 small integers, the codes. The value of a weight is code * scale. Q4_1
adds a second float16, the minimum. Training rounds with these functions
(`kernels.plain.fake_quantize_*`). Conversion, packing and export store their results
(`minimtp.quant`). Tests require the compiled kernels to match them bit for bit. So the file holds
exactly the numbers that training used.

    Q4_0   d = extreme / -8, extreme: the first element of largest magnitude     codes -8..7
           code = min(15, trunc(x * (1/d) + 8.5)) - 8
    Q4_1   d = (max - min) / 15, m = min                                         codes 0..15
           code = min(15, trunc((x - min) * (1/d) + 0.5)), value code * d + m
    Q8_0   d = max|x| / 127                                                      codes -127..127
           code = x * (1/d) rounded, halves away from zero

The order of operations is part of the format. Codes are chosen with the float32 step d and its
float32 reciprocal. Values are read back with d rounded to float16. Dividing by d, or choosing codes
with the rounded step, would give other bytes. Q4_0's signed scale gives the largest weight the code
-8, the only code without a positive counterpart. In exchange, a weight close to the negative of the
extreme is clipped from +8 to +7, so its error can reach a whole step instead of half a step.

Source: `quantize_row_q4_0_ref` and its neighbours in ggml (built without contraction of a*b+c).
Tests compare with the `gguf` package byte for byte, and with stored bytes of ggml itself. There are
two differences, and neither changes a value. For a group of negative zeros, ggml's C code stores a
scale with the opposite sign from its Python package and this file. And if 1/d overflows float32
(|d| <= 2**-128), ggml casts NaN to an integer, which is undefined, and the codes here are 0. This
file does not check values: `minimtp.quant.grids` rejects non-finite ones before it stores anything.
"""

from minimtp.backend import array_module

GROUP_SIZE = 32
Q4_0_BLOCK_BYTES = 18  # float16 scale, then 16 bytes of two codes each
Q4_1_BLOCK_BYTES = 20  # float16 scale, float16 minimum, then 16 bytes of two codes each
Q8_0_BLOCK_BYTES = 34  # float16 scale, then 32 bytes
MAX_STEP_WITHOUT_RECIPROCAL = 2.0**-128  # at and below it 1/d is not a finite float32


def encode_q4_0(x):
    """x (N, K), K a multiple of 32 -> codes int8 (N, K) in -8..7, scales float32 (N, K/32).

    Each scale equals a float16.
    """
    xp = array_module(x)
    levels, step = levels_q4_0(x)
    codes = xp.minimum(levels, xp.float32(15)).astype(xp.int8) - xp.int8(8)
    return codes.reshape(x.shape), as_stored(step)


def levels_q4_0(x):
    """Return Q4_0's codes + 8 before clipping, float32 (N, K/32, 32) in 0..16, and the float32
    steps d (N, K/32, 1).
    """
    xp = array_module(x)
    groups = groups_float32(x)  # (N, K/32, 32)
    first_extreme = xp.argmax(xp.abs(groups), axis=-1)[..., None]
    step = xp.take_along_axis(groups, first_extreme, axis=-1) / xp.float32(-8)
    return xp.trunc(groups * reciprocal(step) + xp.float32(8.5)), step


def encode_q4_1(x):
    """x (N, K), K a multiple of 32 -> codes int8 (N, K) in 0..15, scales and minima float32 (N,
    K/32).

    Each scale and minimum equals a float16.
    """
    xp = array_module(x)
    groups = groups_float32(x)  # (N, K/32, 32)
    minimum = groups.min(axis=-1, keepdims=True)
    step = (groups.max(axis=-1, keepdims=True) - minimum) / xp.float32(15)
    levels = xp.trunc((groups - minimum) * reciprocal(step) + xp.float32(0.5))
    codes = xp.minimum(levels, xp.float32(15)).astype(xp.int8)
    return codes.reshape(x.shape), as_stored(step), as_stored(minimum)


def encode_q8_0(x):
    """x (N, K), K a multiple of 32 -> codes int8 (N, K) in -127..127, scales float32 (N, K/32).

    Each scale equals a float16.
    """
    xp = array_module(x)
    groups = groups_float32(x)  # (N, K/32, 32)
    step = xp.max(xp.abs(groups), axis=-1, keepdims=True) / xp.float32(127)  # (N, K/32, 1)
    scaled = groups * reciprocal(step)
    magnitude = xp.abs(scaled)
    whole = xp.floor(magnitude)
    # Not trunc(x + 0.5): in float32 0.49999997 + 0.5 is 1. Here every operation is exact.
    magnitude = whole + xp.floor(xp.float32(2) * (magnitude - whole))
    codes = (xp.sign(scaled) * magnitude).astype(xp.int8)
    return codes.reshape(x.shape), as_stored(step)


def decode(codes, scales):
    """codes int8 (N, K), scales float32 (N, K/32) -> code * scale, float32 (N, K). For Q4_0 and
    Q8_0.
    """
    xp = array_module(codes)
    rows, columns = codes.shape
    groups = codes.reshape(rows, columns // GROUP_SIZE, GROUP_SIZE).astype(xp.float32)
    return (groups * scales[..., None]).reshape(rows, columns)


def decode_with_minimum(codes, scales, minima):
    """codes int8 (N, K), scales and minima float32 (N, K/32) -> code * scale + minimum, float32 (N,
    K). For Q4_1 and Q5_1.
    """
    rows, columns = codes.shape
    groups = codes.reshape(rows, columns // GROUP_SIZE, GROUP_SIZE).astype("float32")
    return (groups * scales[..., None] + minima[..., None]).reshape(rows, columns)


def pack_q4_0(codes, scales):
    """codes int8 (N, K), scales (N, K/32) -> blocks uint8 (N, K/32 * 18).

    A block is the float16 scale, little-endian, then 16 bytes. The low four bits of byte j hold
    code j, plus 8. The high four bits hold code j + 16, plus 8.
    """
    xp = array_module(codes)
    parts = [bytes_of_float16(scales), nibbles(codes + xp.int8(8))]
    return xp.concatenate(parts, axis=-1).reshape(len(codes), -1)


def unpack_q4_0(blocks):
    """blocks uint8 (N, K/32 * 18) -> codes int8 (N, K), scales float32 (N, K/32). Inverse of
    `pack_q4_0`.
    """
    blocks = blocks.reshape(len(blocks), -1, Q4_0_BLOCK_BYTES)
    codes = codes_from_nibbles(blocks[:, :, 2:]) - array_module(blocks).int8(8)
    return codes, float16_from_bytes(blocks[:, :, :2])


def pack_q4_1(codes, scales, minima):
    """codes int8 (N, K) in 0..15, scales and minima (N, K/32) -> blocks uint8 (N, K/32 * 20).

    A block is the two float16 numbers, then codes as in Q4_0, without the 8.
    """
    xp = array_module(codes)
    parts = [bytes_of_float16(scales), bytes_of_float16(minima), nibbles(codes)]
    return xp.concatenate(parts, axis=-1).reshape(len(codes), -1)


def unpack_q4_1(blocks):
    """blocks uint8 (N, K/32 * 20) -> codes int8 (N, K), scales and minima float32 (N, K/32).
    Inverse of `pack_q4_1`.
    """
    blocks = blocks.reshape(len(blocks), -1, Q4_1_BLOCK_BYTES)
    scales, minima = float16_from_bytes(blocks[:, :, :2]), float16_from_bytes(blocks[:, :, 2:4])
    return codes_from_nibbles(blocks[:, :, 4:]), scales, minima


def pack_q8_0(codes, scales):
    """codes int8 (N, K), scales (N, K/32) -> blocks uint8 (N, K/32 * 34).

    A block is the float16 scale, then 32 signed bytes.
    """
    xp = array_module(codes)
    rows, columns = codes.shape
    code_bytes = (
        xp.ascontiguousarray(codes).view(xp.uint8).reshape(rows, columns // GROUP_SIZE, GROUP_SIZE)
    )
    return xp.concatenate([bytes_of_float16(scales), code_bytes], axis=-1).reshape(rows, -1)


def unpack_q8_0(blocks):
    """blocks uint8 (N, K/32 * 34) -> codes int8 (N, K), scales float32 (N, K/32). Inverse of
    `pack_q8_0`.
    """
    xp = array_module(blocks)
    rows = blocks.shape[0]
    blocks = blocks.reshape(rows, -1, Q8_0_BLOCK_BYTES)
    codes = xp.ascontiguousarray(blocks[:, :, 2:]).view(xp.int8).reshape(rows, -1)
    return codes, float16_from_bytes(blocks[:, :, :2])


def groups_float32(x):
    xp = array_module(x)
    rows, columns = x.shape
    return x.astype(xp.float32, copy=False).reshape(rows, columns // GROUP_SIZE, GROUP_SIZE)


def nibbles(codes):
    """codes 0..15 (N, K) -> uint8 (N, K/32, 16): byte j holds code j in its low and code j + 16 in
    its high half.
    """
    halves = codes.astype("uint8").reshape(
        len(codes), codes.shape[1] // GROUP_SIZE, 2, GROUP_SIZE // 2
    )
    return halves[:, :, 0] | (halves[:, :, 1] << 4)


def codes_from_nibbles(packed):
    """uint8 (N, K/32, 16) -> int8 (N, K). Inverse of `nibbles`."""
    halves = array_module(packed).concatenate([packed & 15, packed >> 4], axis=-1)
    return halves.astype("int8").reshape(len(packed), -1)


def reciprocal(step):
    xp = array_module(step)
    usable = xp.abs(step) > xp.float32(MAX_STEP_WITHOUT_RECIPROCAL)
    return xp.where(usable, xp.float32(1) / xp.where(usable, step, xp.float32(1)), xp.float32(0))


def as_stored(step):
    """(..., 1) -> (...): rounded to the float16 that a block stores, as float32."""
    xp = array_module(step)
    return step[..., 0].astype(xp.float16).astype(xp.float32)


def bytes_of_float16(scales):
    """float32 of any shape (...) -> their float16 bytes, little-endian, uint8 (..., 2)."""
    xp = array_module(scales)
    return xp.ascontiguousarray(scales.astype("<f2")).view(xp.uint8).reshape(*scales.shape, 2)


def float16_from_bytes(pairs):
    """uint8 (..., 2) -> float32 (...). Inverse of `bytes_of_float16`."""
    xp = array_module(pairs)
    return xp.ascontiguousarray(pairs).view("<f2")[..., 0].astype(xp.float32)
