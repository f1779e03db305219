"""Solutions of lesson 7: encoding to Q8_0, packing bits, GPTQ."""

from tests.exercise_mutants import Solutions, changed

EXERCISES = {}

ENCODE = """
def encode_q8_0(x):
    groups = groups_float32(x)
    step = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    scaled = groups * reciprocal(step)
    whole = np.trunc(scaled)
    codes = whole + np.trunc(2 * (scaled - whole))
    return codes.astype(np.int8).reshape(x.shape), as_stored(step)
"""

BY_GROUP = """
def encode_q8_0(x):
    codes = np.zeros(x.shape, np.int8)
    scales = np.zeros((len(x), x.shape[1] // 32), np.float32)
    for n, row in enumerate(x.astype(np.float32)):
        for g in range(scales.shape[1]):
            group = row[32 * g : 32 * g + 32]
            step = abs(group).max() / np.float32(127)
            scales[n, g] = np.float16(step)
            for j, weight in enumerate(group):
                scaled = weight * (np.float32(1) / step) if step else np.float32(0)
                size = int(abs(scaled) + np.float64(0.5))
                codes[n, 32 * g + j] = size if scaled > 0 else -size
    return codes, scales
"""

EXERCISES[1] = Solutions(
    right={
        "as the text says": ENCODE,
        "group by group": BY_GROUP,
        "the nearest even integer, except at halves": changed(
            ENCODE,
            ("whole + np.trunc(2 * (scaled - whole))", "np.rint(scaled)"),
            (
                "    return",
                "    half = np.abs(scaled - whole) == 0.5\n"
                "    codes = np.where(half, whole + np.sign(scaled), codes)\n    return",
            ),
        ),
    },
    wrong={
        "halves to even": changed(
            ENCODE, ("whole + np.trunc(2 * (scaled - whole))", "np.rint(scaled)")
        ),
        "a half is added": changed(
            ENCODE,
            (
                "whole + np.trunc(2 * (scaled - whole))",
                "np.trunc(scaled + np.copysign(np.float32(0.5), scaled))",
            ),
        ),
        "halves up": changed(
            ENCODE, ("whole + np.trunc(2 * (scaled - whole))", "np.floor(scaled + np.float64(0.5))")
        ),
        "cut": changed(ENCODE, ("whole + np.trunc(2 * (scaled - whole))", "whole")),
        "the rule of q4_0": changed(
            ENCODE,
            (
                "np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)",
                "np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)"
                " / np.float32(-128)",
            ),
            (
                "whole + np.trunc(2 * (scaled - whole))",
                "np.minimum(whole + np.trunc(2 * (scaled - whole)), 127)",
            ),
        ),
        "128 levels on each side": changed(
            ENCODE,
            ("np.float32(127)", "np.float32(128)"),
            (
                "whole + np.trunc(2 * (scaled - whole))",
                "np.minimum(whole + np.trunc(2 * (scaled - whole)), 127)",
            ),
        ),
        "the largest number, not the largest magnitude": changed(
            ENCODE, ("np.abs(groups).max(", "groups.max(")
        ),
        "divided by the scale": changed(
            BY_GROUP, ("weight * (np.float32(1) / step)", "weight / step")
        ),
        "codes for the stored scale": changed(
            ENCODE,
            ("np.float32(127)\n", "np.float32(127)\n    step = as_stored(step)[..., None]\n"),
        ),
        "scales are not rounded": changed(ENCODE, ("as_stored(step)", "step[..., 0]")),
        "one scale for a row": changed(
            ENCODE,
            (
                "max(axis=-1, keepdims=True)",
                "max(axis=(1, 2), keepdims=True) + 0 * groups[:, :, :1]",
            ),
        ),
        "in float64": changed(
            BY_GROUP, ("x.astype(np.float32)", "x.astype(np.float64)"), ("np.float32(1)", "1")
        ),
        "division by zero": changed(ENCODE, ("groups * reciprocal(step)", "groups / step")),
        "codes are floats": changed(ENCODE, (".astype(np.int8)", "")),
    },
)

PACK = """
import numpy as np

def pack_bits(codes, bits):
    _check_codes(codes, bits)
    count = codes.shape[-1]
    packed = np.zeros((*codes.shape[:-1], packed_size(count, bits) + 1), np.uint8)
    for i in range(count):
        byte, shift = divmod(i * bits, 8)
        packed[..., byte] |= codes[..., i] << shift
        packed[..., byte + 1] |= codes[..., i] >> (8 - shift)
    return packed[..., :-1]
"""

SINGLE_BITS = """
import numpy as np

def pack_bits(codes, bits):
    _check_codes(codes, bits)
    single = codes[..., None] >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(single.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")
"""

EXERCISES[2] = Solutions(
    right={
        "code by code": PACK,
        "bit by bit": SINGLE_BITS,
        "a row as one integer": """
import numpy as np

def pack_bits(codes, bits):
    _check_codes(codes, bits)
    *outer, count = codes.shape
    size = packed_size(count, bits)
    packed = np.zeros((int(np.prod(outer)), size), np.uint8)
    for row, numbers in zip(packed, codes.reshape(len(packed), count).tolist()):
        whole = sum(number << bits * i for i, number in enumerate(numbers))
        row[:] = list(whole.to_bytes(size, "little"))
    return packed.reshape(*outer, size)
""",
    },
    wrong={
        "too large codes are accepted": changed(PACK, ("_check_codes(codes, bits)", "pass")),
        "too large codes are cut": changed(
            PACK, ("_check_codes(codes, bits)", "codes = codes & np.uint8(2**bits - 1)")
        ),
        "the part in the next byte is lost": changed(
            PACK, ("        packed[..., byte + 1] |= codes[..., i] >> (8 - shift)\n", "")
        ),
        "no code crosses a byte": changed(
            PACK,
            ("divmod(i * bits, 8)", "divmod(i, 8 // bits); shift *= bits"),
            ("packed_size(count, bits)", "-(-count // (8 // bits))"),
        ),
        "one byte too many": changed(PACK, ("[..., :-1]\n", "\n")),
        "the first code in the highest bits": changed(SINGLE_BITS, ("little", "big")),
        "the bits of a code in the wrong order": changed(
            SINGLE_BITS,
            ("np.arange(bits, dtype=np.uint8)", "np.arange(bits, dtype=np.uint8)[::-1]"),
        ),
        "all rows as one": changed(
            SINGLE_BITS,
            ("np.packbits(single.reshape(*codes.shape[:-1], -1), axis=-1,", "np.packbits(single,"),
        ),
        "unused bits are ones": changed(
            PACK,
            (
                "    return",
                "    unused = -count * bits % 8\n"
                "    packed[..., -2:-1] |= np.uint8(256 - (1 << 8 - unused))\n    return",
            ),
        ),
    },
)

TEXTBOOK = """
import numpy as np

def gptq(
    grid, weight, second_moment, name="the array", *,
    beforehand=None, largest_first=False, groups_at_once=GROUPS_AT_ONCE,
):
    columns = weight.shape[1]
    size = grid.group_size or columns
    keep_scales = largest_first or beforehand is not None
    codes, scales = beforehand or grid.encode(weight, name)
    codes = codes.copy()
    order = np.arange(columns)
    if largest_first:
        order = np.argsort(-np.diag(second_moment), kind="stable")
    factor = _inverse_factor(second_moment[order][:, order], name)
    now = weight.astype(np.float64)[:, order]
    for i, column in enumerate(order.tolist()):
        if not keep_scales and column % size == 0:
            put_group(scales, column // size, grid.encode(now[:, i : i + size], name)[1])
        codes[:, column] = grid.nearest(now[:, i : i + 1], scales, column)[:, 0]
        level = grid.decode(codes[:, column : column + 1], scales, column)[:, 0]
        error = (now[:, i] - level) / factor[i, i]
        now[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    return codes, scales
"""

ELIMINATION = changed(
    TEXTBOOK,
    ("    now = weight", "    inverse = factor.T @ factor\n    now = weight"),
    ("/ factor[i, i]\n", "/ inverse[i, i]\n"),
    (
        "factor[i, i + 1 :])\n",
        "inverse[i, i + 1 :])\n"
        "        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]\n",
    ),
)

EXERCISES[3] = Solutions(
    right={
        "the textbook: column by column, always the nearest level": TEXTBOOK,
        "the inverse is updated, without Cholesky's factor in the loop": ELIMINATION,
    },
    wrong={
        "no compensation": changed(TEXTBOOK, ("np.outer(error,", "0 * np.outer(error,")),
        "the wrong sign": changed(TEXTBOOK, ("-= np.outer(error", "+= np.outer(error")),
        "the error is not divided by the diagonal": changed(TEXTBOOK, (" / factor[i, i]", "")),
        "the lower part of the factor": changed(
            TEXTBOOK, ("factor[i, i + 1 :])", "factor[i + 1 :, i])")
        ),
        "the inverse of the whole matrix for every column": changed(
            ELIMINATION,
            ("        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]\n", ""),
        ),
        "scales of the weights before the updates": changed(
            TEXTBOOK,
            (
                "grid.encode(now[:, i : i + size], name)",
                "grid.encode(weight[:, i : i + size], name)",
            ),
        ),
        "scales are looked up by position": changed(
            TEXTBOOK,
            (
                "grid.nearest(now[:, i : i + 1], scales, column)",
                "grid.nearest(now[:, i : i + 1], scales, i)",
            ),
        ),
        "the smallest first": changed(TEXTBOOK, ("np.argsort(-np.diag", "np.argsort(np.diag")),
        "the moment keeps its order": changed(
            TEXTBOOK, ("second_moment[order][:, order]", "second_moment")
        ),
        "largest_first is ignored": changed(TEXTBOOK, ("    if largest_first:", "    if False:")),
        "beforehand is ignored": changed(TEXTBOOK, ("beforehand or grid.encode", "grid.encode")),
    },
)
