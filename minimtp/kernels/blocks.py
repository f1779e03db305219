"""The arithmetic of ggml's block formats Q4_0 and Q8_0 in plain arrays: the one place where it is written down.

A row of K weights is cut into groups of 32. A group is stored as one 16-bit float, the scale (the step between two levels),
and 32 small integers, the codes; a weight is read back as code * scale. Training rounds with these functions
(`kernels.plain.fake_quantize_*`), conversion, packing and export store what they return (`minimtp.quant`), and the compiled
twins in `kernels/cpu.py` are held bit-equal to them. So the numbers that training saw are the numbers in the file.

    Q4_0   extreme = the first element of largest magnitude, with its sign      d = extreme / -8      codes -8..7
           code = min(15, trunc(x * (1/d) + 8.5)) - 8
    Q8_0   d = max|x| / 127                                                      codes -127..127
           code = x * (1/d) rounded, halves away from zero

The order of operations belongs to the format: the codes are chosen with the float32 step d and its float32 reciprocal, and
read back with d rounded to float16. Dividing by d, or choosing codes with the rounded step, gives other bytes. Q4_0's signed
scale spends the one code that has no mirror image, -8, on the largest weight; the price is that a weight close to the
negative of the extreme is clipped from +8 to +7, so that its error can reach a whole step instead of half a one.

Source: `quantize_row_q4_0_ref` and `quantize_row_q8_0_ref` of ggml (built without contraction of a*b+c); the tests compare
with the `gguf` package byte for byte. One difference: where 1/d would overflow float32 (|d| <= 2**-128) ggml casts NaN to an
integer, which is undefined; here the codes are then 0. The scale is 0 as a float16 there, so the values agree.
Values are not checked here: `minimtp.quant.grids` refuses what is not finite before it stores anything.
"""

from minimtp.backend import array_module

GROUP_SIZE = 32
Q4_0_BLOCK_BYTES = 18  # float16 scale, then 16 bytes of two codes each
Q8_0_BLOCK_BYTES = 34  # float16 scale, then 32 bytes
LARGEST_STEP_WITHOUT_RECIPROCAL = 2.0**-128  # at and below it 1/d is not a finite float32


def encode_q4_0(x):
    """x (N, K), K a multiple of 32 -> codes int8 (N, K) in -8..7 and scales float32 (N, K/32), each exactly a float16."""
    xp = array_module(x)
    levels, step = levels_q4_0(x)
    codes = xp.minimum(levels, xp.float32(15)).astype(xp.int8) - xp.int8(8)
    return codes.reshape(x.shape), _as_stored(step)


def levels_q4_0(x):
    """Q4_0's codes + 8 before clipping, float32 (N, K/32, 32) in 0..16, and the float32 steps d (N, K/32, 1) behind them."""
    xp = array_module(x)
    groups = _groups_float32(x)  # (N, K/32, 32)
    first_extreme = xp.argmax(xp.abs(groups), axis=-1)[..., None]
    step = xp.take_along_axis(groups, first_extreme, axis=-1) / xp.float32(-8)
    return xp.trunc(groups * _reciprocal(step) + xp.float32(8.5)), step


def encode_q8_0(x):
    """x (N, K), K a multiple of 32 -> codes int8 (N, K) in -127..127 and scales float32 (N, K/32), each exactly a float16."""
    xp = array_module(x)
    groups = _groups_float32(x)  # (N, K/32, 32)
    step = xp.max(xp.abs(groups), axis=-1, keepdims=True) / xp.float32(127)  # (N, K/32, 1)
    scaled = groups * _reciprocal(step)
    magnitude = xp.abs(scaled)
    whole = xp.floor(magnitude)
    # Not trunc(x + 0.5): in float32 0.49999997 + 0.5 is 1. Here every operation is exact.
    magnitude = whole + xp.floor(xp.float32(2) * (magnitude - whole))
    codes = (xp.sign(scaled) * magnitude).astype(xp.int8)
    return codes.reshape(x.shape), _as_stored(step)


def decode(codes, scales):
    """codes int8 (N, K), scales float32 (N, K/32) -> code * scale, float32 (N, K); the same for both formats."""
    xp = array_module(codes)
    rows, columns = codes.shape
    groups = codes.reshape(rows, columns // GROUP_SIZE, GROUP_SIZE).astype(xp.float32)
    return (groups * scales[..., None]).reshape(rows, columns)


def pack_q4_0(codes, scales):
    """codes int8 (N, K), scales (N, K/32) -> blocks uint8 (N, K/32 * 18).

    A block is the float16 scale, little-endian, then 16 bytes: byte j holds code j + 8 in its low and code j+16 + 8 in its
    high four bits.
    """
    xp = array_module(codes)
    rows, columns = codes.shape
    unsigned = (codes + xp.int8(8)).astype(xp.uint8).reshape(rows, columns // GROUP_SIZE, 2, GROUP_SIZE // 2)
    nibbles = unsigned[:, :, 0] | (unsigned[:, :, 1] << xp.uint8(4))  # (N, K/32, 16)
    return xp.concatenate([_scale_bytes(scales), nibbles], axis=-1).reshape(rows, -1)


def unpack_q4_0(blocks):
    """blocks uint8 (N, K/32 * 18) -> codes int8 (N, K), scales float32 (N, K/32); undoes `pack_q4_0`."""
    xp = array_module(blocks)
    rows = blocks.shape[0]
    blocks = blocks.reshape(rows, -1, Q4_0_BLOCK_BYTES)
    nibbles = blocks[:, :, 2:]
    unsigned = xp.concatenate([nibbles & xp.uint8(15), nibbles >> xp.uint8(4)], axis=-1)  # (N, K/32, 32)
    return (unsigned.astype(xp.int8) - xp.int8(8)).reshape(rows, -1), _scales_from_bytes(blocks)


def pack_q8_0(codes, scales):
    """codes int8 (N, K), scales (N, K/32) -> blocks uint8 (N, K/32 * 34): the float16 scale, then 32 signed bytes."""
    xp = array_module(codes)
    rows, columns = codes.shape
    code_bytes = xp.ascontiguousarray(codes).view(xp.uint8).reshape(rows, columns // GROUP_SIZE, GROUP_SIZE)
    return xp.concatenate([_scale_bytes(scales), code_bytes], axis=-1).reshape(rows, -1)


def unpack_q8_0(blocks):
    """blocks uint8 (N, K/32 * 34) -> codes int8 (N, K), scales float32 (N, K/32); undoes `pack_q8_0`."""
    xp = array_module(blocks)
    rows = blocks.shape[0]
    blocks = blocks.reshape(rows, -1, Q8_0_BLOCK_BYTES)
    return xp.ascontiguousarray(blocks[:, :, 2:]).view(xp.int8).reshape(rows, -1), _scales_from_bytes(blocks)


def _groups_float32(x):
    xp = array_module(x)
    rows, columns = x.shape
    return x.astype(xp.float32, copy=False).reshape(rows, columns // GROUP_SIZE, GROUP_SIZE)


def _reciprocal(step):
    xp = array_module(step)
    usable = xp.abs(step) > xp.float32(LARGEST_STEP_WITHOUT_RECIPROCAL)
    return xp.where(usable, xp.float32(1) / xp.where(usable, step, xp.float32(1)), xp.float32(0))


def _as_stored(step):
    xp = array_module(step)
    return step[..., 0].astype(xp.float16).astype(xp.float32)


def _scale_bytes(scales):
    xp = array_module(scales)
    rows, groups = scales.shape
    return xp.ascontiguousarray(scales.astype("<f2")).view(xp.uint8).reshape(rows, groups, 2)


def _scales_from_bytes(blocks):
    xp = array_module(blocks)
    return xp.ascontiguousarray(blocks[:, :, :2]).view("<f2")[..., 0].astype(xp.float32)
