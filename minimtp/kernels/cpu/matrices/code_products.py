"""The ways to multiply codes of 4, 5 and 8 bits by int8 activations, for `quantized_tile` in
tiles.py.

Each class emits the instructions for one weight format and one kind of processor. All of them
compute the same integers, so their results are identical. tiles.py explains the offsets.

    halves       float16 numbers of a group: the scale, and the minimum if there is one
    code_bytes   bytes of a group of a panel after these numbers
    steps        of a group: a step multiplies 8 or 4 values of k
"""

from minimtp.kernels.cpu.matrices.activations import round_for_dots, round_to_bytes, round_to_shorts
from minimtp.kernels.cpu.matrices.panels import PANEL
from minimtp.kernels.cpu.matrices.vectors import (
    BYTES,
    CODE_MATRIX,
    DOTS,
    FLOATS,
    INT32,
    INTS,
    LANES,
    SHORT_MATRIX,
    SHORTS,
)


class Q4Shorts:
    """q4_0 with 16-bit totals, four codes per step. `kernels/cpu/matrices/activations.py` computes
    the initial totals.
    """

    halves, code_bytes, steps = 1, 512, 4
    code_kind, code_size, round_rows = CODE_MATRIX, 1, round_to_bytes

    @staticmethod
    def start(emit, start_row, group):
        return emit.builder.bitcast(
            emit.load_everywhere(INT32, start_row, emit.times(group, 4)), SHORTS
        )

    @staticmethod
    def load(emit, block, step, vector):
        """Return the codes for the first four and for the last four activations of a step."""
        b, nibble = emit.builder, emit.constant(BYTES, 15)
        packed = _dwords(emit, block, step, vector)
        high = b.bitcast(b.lshr(b.bitcast(packed, SHORTS), emit.constant(SHORTS, 4)), BYTES)
        return b.and_(packed, nibble), b.and_(high, nibble)

    @staticmethod
    def add_products(emit, total, codes, x):
        return emit.add_products_of_bytes(total, codes, x)

    @staticmethod
    def finish(emit, total, start):
        return emit.products_of_shorts(total, emit.constant(SHORTS, 1))


class Q4WithMinimumShorts(Q4Shorts):
    """q4_1 with 16-bit totals that start at zero. The largest sum, 16 * 15 * 127, fits."""

    halves = 2

    @staticmethod
    def start(emit, start_row, group):
        return emit.constant(SHORTS, 0)

    @staticmethod
    def sum_of_codes(emit, start_row, group):
        """Return the sum of the activations' codes of a group, as floats in every lane."""
        starts = Q4Shorts.start(emit, start_row, group)  # -8 times the sums of two halves
        total = emit.products_of_shorts(starts, emit.constant(SHORTS, -1))
        return emit.builder.fmul(emit.builder.sitofp(total, FLOATS), emit.constant(FLOATS, 1 / 8))


class Q5Shorts(Q4Shorts):
    """q5_0 with 16-bit totals. They fit: |(code - 16) x_code|, summed over the 16 products of a
    lane, is at most 16 * 16 * 127. The top bits follow the steps of the group (panels.py).
    """

    code_bytes = 640

    @staticmethod
    def start(emit, start_row, group):
        return emit.builder.shl(Q4Shorts.start(emit, start_row, group), emit.constant(SHORTS, 1))

    @staticmethod
    def load(emit, block, step, vector):
        return _with_top_bits(emit, block, step, vector, Q4Shorts.load(emit, block, step, vector))


class Q5WithMinimumShorts(Q5Shorts):
    """q5_1. Sums of products with codes 0..31 do not fit 16 bits, so totals are those of q5_0."""

    halves, sum_of_codes = 2, Q4WithMinimumShorts.sum_of_codes

    @staticmethod
    def finish(emit, total, start):
        one = emit.constant(SHORTS, 1)
        without_offset = emit.products_of_shorts(start, one)  # -16 times the sum
        return emit.builder.sub(emit.products_of_shorts(total, one), without_offset)


class Q8Shorts:
    """q8_0 with products of shorts. `kernels/cpu/matrices/activations.py` determines the order of
    the activations. Totals are ints that start at zero.
    """

    halves, code_bytes, steps = 1, 1024, 8
    code_kind, code_size, round_rows = SHORT_MATRIX, 2, round_to_shorts
    stored_offset = 0

    @staticmethod
    def start(emit, start_row, group):
        return emit.constant(INTS, 0)

    @staticmethod
    def load(emit, block, step, vector):
        packed = emit.builder.bitcast(_dwords(emit, block, step, vector), SHORTS)
        return emit.sign_extended_low_half(packed, 8), emit.builder.ashr(
            packed, emit.constant(SHORTS, 8)
        )

    @staticmethod
    def add_products(emit, total, codes, x):
        return emit.builder.add(
            total, emit.products_of_shorts(codes, emit.builder.bitcast(x, SHORTS))
        )

    @staticmethod
    def finish(emit, total, start):
        return total


class Q4Dots(Q4Shorts):
    """q4_0 with sums of four products of bytes. Totals are ints."""

    round_rows, offset_bits = round_for_dots, 3

    @classmethod
    def start(cls, emit, start_row, group):
        start = emit.load_everywhere(INT32, start_row, emit.times(group, 4))
        return emit.builder.shl(start, emit.constant(INTS, cls.offset_bits))

    @staticmethod
    def add_products(emit, total, codes, x):
        return emit.add_dots_of_bytes(total, codes, x)

    @staticmethod
    def finish(emit, total, start):
        return total


class Q4WithMinimumDots(Q4Dots):
    """q4_1 with sums of four products of bytes, which start at zero."""

    halves = 2

    @classmethod
    def start(cls, emit, start_row, group):
        return emit.constant(INTS, 0)

    @staticmethod
    def sum_of_codes(emit, start_row, group):
        """Return the sum of the activations' codes of a group, as floats in every lane."""
        start = emit.load_everywhere(INT32, start_row, emit.times(group, 4))  # minus the sum
        return emit.builder.sitofp(emit.builder.neg(start), FLOATS)


class Q5Dots(Q4Dots):
    """q5_0 with sums of four products of bytes."""

    code_bytes, offset_bits = Q5Shorts.code_bytes, 4
    load = Q5Shorts.load


class Q5WithMinimumDots(Q4WithMinimumDots):
    """q5_1 with sums of four products of bytes, which start at zero."""

    code_bytes, load = Q5Shorts.code_bytes, Q5Shorts.load


class Q8Dots(Q4Dots):
    """q8_0 with sums of four products of bytes. Codes are stored with 128 added."""

    code_bytes, steps, offset_bits, stored_offset = 1024, 8, 7, 128

    @staticmethod
    def load(emit, block, step, vector):
        return (_dwords(emit, block, step, vector),)


def _dwords(emit, block, step, vector):
    """Return the dwords of a step for the outputs of a vector, BYTES."""
    here = emit.advance(block, emit.times(step, 4 * PANEL))
    return emit.load(BYTES, here, 4 * LANES * vector)


def _with_top_bits(emit, block, step, vector, halves):
    """Add 16 to the codes whose top bit is set. halves: the low bits of the first and of the last
    four codes of a step, BYTES each.
    """
    b, half_bytes = emit.builder, PANEL // 2
    here = emit.advance(block, emit.plus(emit.times(step, 2 * half_bytes), 4 * 4 * PANEL))
    codes = []
    for half, low in enumerate(halves):
        flags = emit.load_flags(here, half * half_bytes + LANES // 2 * vector)
        codes.append(b.select(flags, b.or_(low, emit.constant(BYTES, 16)), low))
    return codes


Q4, Q4_WITH_MINIMUM, Q5, Q5_WITH_MINIMUM, Q8 = (
    (Q4Dots, Q4WithMinimumDots, Q5Dots, Q5WithMinimumDots, Q8Dots)
    if DOTS
    else (Q4Shorts, Q4WithMinimumShorts, Q5Shorts, Q5WithMinimumShorts, Q8Shorts)
)
