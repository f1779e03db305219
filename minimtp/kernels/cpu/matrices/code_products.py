"""The ways to multiply int4 and int8 codes by int8 activations, for `quantized_tile` in tiles.py.

Each class emits the instructions for one weight format and one kind of processor. All of them
compute the same integers, so their results are identical. tiles.py explains the offsets.
"""

from minimtp.kernels.cpu.matrices.activations import round_for_dots, round_to_bytes, round_to_shorts
from minimtp.kernels.cpu.matrices.vectors import (
    BYTES,
    CODE_MATRIX,
    DOTS,
    INT32,
    INTS,
    SHORT_MATRIX,
    SHORTS,
)


class Q4Shorts:
    """q4_0 with 16-bit totals, four codes per step. `kernels/cpu/matrices/activations.py` computes
    the initial totals.
    """

    code_bytes, steps, code_kind, code_size, round_rows = 512, 4, CODE_MATRIX, 1, round_to_bytes

    @staticmethod
    def start(emit, start_row, group):
        return emit.builder.bitcast(
            emit.load_everywhere(INT32, start_row, emit.times(group, 4)), SHORTS
        )

    @staticmethod
    def unpack(emit, packed):
        """Return the codes for the first four and for the last four activations of a step."""
        b, nibble = emit.builder, emit.constant(BYTES, 15)
        high = b.bitcast(b.lshr(b.bitcast(packed, SHORTS), emit.constant(SHORTS, 4)), BYTES)
        return b.and_(packed, nibble), b.and_(high, nibble)

    @staticmethod
    def add_products(emit, total, codes, x):
        return emit.add_products_of_bytes(total, codes, x)

    @staticmethod
    def finish(emit, total):
        return emit.products_of_shorts(total, emit.constant(SHORTS, 1))


class Q8Shorts:
    """q8_0 with products of shorts. `kernels/cpu/matrices/activations.py` determines the order of
    the activations. Totals are ints that start at zero.
    """

    code_bytes, steps, code_kind, code_size, round_rows = 1024, 8, SHORT_MATRIX, 2, round_to_shorts
    stored_offset = 0

    @staticmethod
    def start(emit, start_row, group):
        return emit.constant(INTS, 0)

    @staticmethod
    def unpack(emit, packed):
        packed = emit.builder.bitcast(packed, SHORTS)
        return emit.sign_extended_low_half(packed, 8), emit.builder.ashr(
            packed, emit.constant(SHORTS, 8)
        )

    @staticmethod
    def add_products(emit, total, codes, x):
        return emit.builder.add(
            total, emit.products_of_shorts(codes, emit.builder.bitcast(x, SHORTS))
        )

    @staticmethod
    def finish(emit, total):
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
    def finish(emit, total):
        return total


class Q8Dots(Q4Dots):
    """q8_0 with sums of four products of bytes. Codes are stored with 128 added."""

    code_bytes, steps, offset_bits, stored_offset = 1024, 8, 7, 128

    @staticmethod
    def unpack(emit, packed):
        return (packed,)


Q4, Q8 = (Q4Dots, Q8Dots) if DOTS else (Q4Shorts, Q8Shorts)
