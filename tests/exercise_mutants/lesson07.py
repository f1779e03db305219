"""Solutions of lesson 7: rounding halves away from zero, packing bits, GPTQ."""

from tests.exercise_mutants import Solutions, changed

EXERCISES = {}

ROUND = """
def half_away(x):
    xp = array_module(x)
    magnitude = xp.abs(x)
    whole = xp.floor(magnitude)
    return xp.copysign(whole + (magnitude - whole >= 0.5), x)
"""

EXERCISES[1] = Solutions(
    right={
        "by magnitude": ROUND,
        "the nearest even integer, except at halves": """
def half_away(x):
    xp = array_module(x)
    whole = xp.trunc(x)
    return xp.where(xp.abs(x - whole) == 0.5, whole + xp.sign(x), xp.rint(x))
""",
    },
    wrong={
        "a half is added": """
def half_away(x):
    xp = array_module(x)
    return xp.trunc(x + xp.copysign(x.dtype.type(0.5), x))
""",
        "a half is added in float64": """
def half_away(x):
    xp = array_module(x)
    precise = x.astype("float64")
    return xp.trunc(precise + xp.copysign(0.5, precise)).astype(x.dtype)
""",
        "in float32": """
def half_away(x):
    xp = array_module(x)
    single = x.astype("float32")
    whole = xp.trunc(single)
    return (whole + xp.trunc(2 * (single - whole))).astype(x.dtype)
""",
        "the double is cut, and half of it": """
def half_away(x):
    xp = array_module(x)
    return xp.trunc((xp.trunc(2 * x) + xp.sign(x)) / 2)
""",
        "halves to even": "def half_away(x):\n    return array_module(x).rint(x)",
        "halves up": "def half_away(x):\n    return array_module(x).floor(x + x.dtype.type(0.5))",
        "halves to zero": changed(ROUND, (">= 0.5", "> 0.5")),
        "through int32": changed(
            ROUND, ("xp.floor(magnitude)", 'magnitude.astype("int32").astype(x.dtype)')
        ),
        "through int64": changed(
            ROUND, ("xp.floor(magnitude)", 'magnitude.astype("int64").astype(x.dtype)')
        ),
        "returns integers": changed(ROUND, ("0.5), x)", '0.5), x).astype("int64")')),
        "the sign is lost": changed(ROUND, ("xp.copysign(", "("), ("0.5), x)", "0.5))")),
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
