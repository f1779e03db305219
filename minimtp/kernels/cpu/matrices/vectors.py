"""Vector instructions that are emitted by hand, because Numba would not choose them for a loop.

A Numba *intrinsic* is a function whose body is a list of LLVM instructions. Python code writes the
list when the caller is compiled. LLVM has vectors of any length as values (`<8 x float>`) and
translates them for the processor, into several instructions if its registers are shorter. So this
code runs on x86 and on ARM. Sometimes x86 has one instruction for several of ours and LLVM does not
find it. Then the emitter requests it by name if the processor has it, and emits the longer form
otherwise. Both give the same bits, because all of these are integer instructions.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from minimtp.backend import CACHE_LINE


def processor_name(context):
    """Return LLVM's name of the processor for which functions are compiled: "znver4",
    "emeraldrapids".
    """
    return context.codegen().magic_tuple()[1]


def processor_features(context):
    """Return the instruction sets of the processor for which functions are compiled."""
    return {
        feature[1:]
        for feature in context.codegen().magic_tuple()[2].split(",")
        if feature.startswith("+")
    }


# With AVX-512, vectors are twice as long and there are twice as many registers. With VNNI, products
# of bytes are summed in 32 bits.
DOTS = {"avx512f", "avx512bw", "avx512vl", "avx512vnni"} <= processor_features(
    cpu_target.target_context
)
LANES = 16 if DOTS else 8  # 32-bit lanes of a vector
ZEN = processor_name(cpu_target.target_context).startswith("znver")
NEAREST, SECOND = 3, 2  # caches, as LLVM numbers them

INT64, INT32, INT8, FLOAT = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.FloatType()
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT32, LANES)
HALFS, CODES = (ir.VectorType(ir.IntType(bits), LANES) for bits in (16, 8))
SHORTS, BYTES = ir.VectorType(ir.IntType(16), 2 * LANES), ir.VectorType(INT8, 4 * LANES)
FLAGS = ir.VectorType(ir.IntType(1), 4 * LANES)  # one for each of BYTES

FLOAT_MATRIX, INT_MATRIX = types.Array(types.float32, 2, "C"), types.Array(types.int32, 2, "C")
SHORT_MATRIX, CODE_MATRIX = types.Array(types.int16, 2, "C"), types.Array(types.int8, 2, "C")
BYTE_MATRIX, FLOAT_VECTOR = types.Array(types.uint8, 2, "C"), types.Array(types.float32, 1, "C")
HALF_VECTOR = types.Array(types.uint16, 1, "C")  # the bits of float16 numbers
CODE_VECTOR = types.Array(types.int8, 1, "C")


def fit(given, expected):
    """Return whether Numba's types are the expected arrays. Read-only arrays (mapped files) are
    accepted.
    """
    return all(
        isinstance(array, types.Array)
        and (array.dtype, array.ndim, array.layout) == (kind.dtype, kind.ndim, kind.layout)
        for array, kind in zip(given, expected, strict=True)
    )


def special_instructions(context):
    """Return the names of the special instructions that the emitter may use on this processor."""
    features, triple = processor_features(context), context.codegen().magic_tuple()[0]
    found = features & {"f16c"}
    if DOTS:
        found |= {"dots"}
    elif "avx2" in features:
        found |= {"avx2"}
    # Every 64-bit ARM processor can convert float16.
    return found | {"f16c"} if triple.startswith("aarch64") else found


class Emitter:
    """Emits instructions into the function that is being compiled. Offsets are in bytes. Index
    arithmetic uses 64-bit integers.
    """

    def __init__(self, context, builder, kinds, arguments):
        self.context, self.builder = context, builder
        self.arrays = [
            context.make_array(kind)(context, builder, argument)
            if isinstance(kind, types.Array)
            else argument
            for kind, argument in zip(kinds, arguments, strict=True)
        ]
        special = special_instructions(context)
        self.with_avx2 = "avx2" in special
        self.with_dots = "dots" in special
        self.with_float16 = "f16c" in special

    def width(self, array):
        return self.builder.extract_value(array.shape, 1)

    def row(self, array, index, item_bytes, column=0):
        """Return the address of array[index, column]."""
        item = self.plus(self.times(index, self.width(array)), column)
        return self.advance(
            self.builder.bitcast(array.data, INT8.as_pointer()), self.times(item, item_bytes)
        )

    def item(self, array, index, item_bytes):
        """Return the address of array[index], for an array of one dimension."""
        return self.advance(
            self.builder.bitcast(array.data, INT8.as_pointer()), self.times(index, item_bytes)
        )

    def advance(self, address, offset):
        return self.builder.gep(address, [self.number(offset)])

    def plus(self, a, b):
        return self.builder.add(self.number(a), self.number(b))

    def times(self, a, b):
        return self.builder.mul(self.number(a), self.number(b))

    def number(self, value):
        return ir.Constant(INT64, value) if isinstance(value, int) else value

    def load(self, kind, address, offset=0):
        address = self.builder.bitcast(self.advance(address, offset), kind.as_pointer())
        return self.builder.load(address, align=1)

    def store(self, value, address, offset=0):
        address = self.builder.bitcast(self.advance(address, offset), value.type.as_pointer())
        self.builder.store(value, address, align=1)

    def prefetch(self, address, ahead, size, cache):
        """Prefetch `size` bytes that start `ahead` bytes after the address into `cache`, NEAREST or
        SECOND. The bytes may lie outside of the array.
        """
        b, kind = self.builder, ir.FunctionType(ir.VoidType(), [address.type, INT32, INT32, INT32])
        prefetch = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        flags = [ir.Constant(INT32, flag) for flag in (0, cache, 1)]
        for offset in range(0, size, CACHE_LINE):
            b.call(prefetch, [self.advance(address, self.plus(ahead, offset)), *flags])

    def load_everywhere(self, scalar_kind, address, offset=0):
        """Return a vector with the scalar at the address in every lane."""
        return self.everywhere(self.load(scalar_kind, address, offset))

    def load_flags(self, address, offset=0):
        """Return FLAGS, which are bits in memory. The lowest bit of the first byte comes first."""
        return self.builder.bitcast(self.load(ir.IntType(4 * LANES), address, offset), FLAGS)

    def everywhere(self, scalar):
        undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
        return self.lanes(
            self.builder.insert_element(undefined, scalar, ir.Constant(INT32, 0)), [0] * LANES
        )

    def folded(self, operation, x, min_distance=1):
        """Combine the lanes of x with `operation`, and return the result in every lane. A
        `min_distance` of n combines only lanes whose distance is a multiple of n.
        """
        distance = LANES // 2
        while distance >= min_distance:
            x = operation(x, self.lanes(x, [lane ^ distance for lane in range(LANES)]))
            distance //= 2
        return x

    def lanes(self, x, order, y=None):
        """Return the lanes in `order`. Indices continue from the lanes of x to the lanes of y."""
        mask = ir.Constant(ir.VectorType(INT32, len(order)), order)
        return self.builder.shuffle_vector(x, x if y is None else y, mask)

    def transposed(self, square):
        """Return the columns of a square of LANES vectors."""
        square, distance = list(square), LANES // 2
        # Two vectors exchange the halves, then the quarters, ... that lie on the wrong side.
        while distance:
            low = [
                lane if lane & distance == 0 else lane - distance + LANES for lane in range(LANES)
            ]
            high = [
                lane + distance if lane & distance == 0 else lane + LANES for lane in range(LANES)
            ]
            for j in range(LANES):
                if j & distance == 0:
                    pair = square[j], square[j + distance]
                    square[j], square[j + distance] = (
                        self.lanes(pair[0], order, pair[1]) for order in (low, high)
                    )
            distance //= 2
        return square

    def constant(self, kind, value):
        return ir.Constant(kind, [value] * kind.count)

    def as_float32(self, x):
        """Convert FLOATS, HALFS or CODES to FLOATS."""
        if x.type == CODES:
            return self.builder.sitofp(self.builder.sext(x, INTS), FLOATS)
        return self.float16_to_float32(x) if x.type == HALFS else x

    def float16_to_float32(self, x):
        """Convert float16 numbers, stored as HALFS (shorts), to FLOATS."""
        b = self.builder
        if self.with_float16:
            return b.fpext(b.bitcast(x, ir.VectorType(ir.HalfType(), LANES)), FLOATS)
        bits = b.zext(x, INTS)
        magnitude = b.and_(bits, self.constant(INTS, 0x7FFF))
        sign = b.shl(b.xor(bits, magnitude), self.constant(INTS, 16))
        # Shifting by 13 bits aligns the fraction, but the exponent is too small by 112. Multiplying
        # by 2^112 corrects it, also for subnormal numbers.
        aligned = b.bitcast(b.shl(magnitude, self.constant(INTS, 13)), FLOATS)
        finite = b.bitcast(b.fmul(aligned, self.constant(FLOATS, 2.0**112)), INTS)
        is_finite = b.icmp_unsigned("<", magnitude, self.constant(INTS, 0x7C00))
        value = b.select(is_finite, finite, b.or_(finite, self.constant(INTS, 0x7F800000)))
        return b.bitcast(b.or_(value, sign), FLOATS)

    def variable(self, value):
        """Return a variable that may change in a loop. LLVM keeps it in a register."""
        place = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, place)
        return place

    def call(self, name, result, *arguments):
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, name), arguments
        )

    def multiply_add(self, a, b, total):
        return self.call(f"llvm.fmuladd.v{LANES}f32", FLOATS, a, b, total)

    def add_pairs_of_bfloat16(self, total, a, b):
        """Add the sums of two neighbouring products of bfloat16 numbers (INTS, two in each lane) to
        total (FLOATS). Only for processors with AVX-512 BF16.
        """
        return self.call("llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, a, b)

    def rounded_to_bfloat16(self, low, high):
        """Return the numbers of `low`, then those of `high` (FLOATS), rounded to bfloat16: INTS,
        with two in each lane. Only for processors with AVX-512 BF16.
        """
        numbers = self.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", SHORTS, high, low)
        return self.builder.bitcast(numbers, INTS)

    def larger(self, a, b):
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def sign_extended_low_half(self, x, bits):
        shift = self.constant(x.type, bits)
        return self.builder.ashr(self.builder.shl(x, shift), shift)

    def add_dots_of_bytes(self, total, codes, x):
        """Add the sum of four products of codes (unsigned bytes) and x (signed bytes) to each lane
        of total (INTS).
        """
        b = self.builder
        codes = b.bitcast(codes, INTS)
        if self.with_dots:
            return self.call(f"llvm.x86.avx512.vpdpbusd.{32 * LANES}", INTS, total, codes, x)
        for place in range(0, 32, 8):
            code = b.and_(b.lshr(codes, self.constant(INTS, place)), self.constant(INTS, 255))
            value = b.ashr(b.shl(x, self.constant(INTS, 24 - place)), self.constant(INTS, 24))
            total = b.add(total, b.mul(code, value))
        return total

    def add_products_of_bytes(self, total, codes, x):
        """Add the sums of two neighbouring products of codes (bytes 0..15) and x (signed bytes) to
        total (SHORTS).
        """
        b = self.builder
        if self.with_avx2:
            return b.add(
                total, self.call("llvm.x86.avx2.pmadd.ub.sw", SHORTS, codes, b.bitcast(x, BYTES))
            )
        codes, x = b.bitcast(codes, SHORTS), b.bitcast(x, SHORTS)
        eight = self.constant(SHORTS, 8)
        total = b.add(
            total,
            b.mul(b.and_(codes, self.constant(SHORTS, 255)), self.sign_extended_low_half(x, 8)),
        )
        return b.add(total, b.mul(b.lshr(codes, eight), b.ashr(x, eight)))

    def products_of_shorts(self, a, c):
        """Return the sums of two neighbouring products of shorts (SHORTS), as INTS."""
        b = self.builder
        if self.with_avx2:
            return self.call("llvm.x86.avx2.pmadd.wd", INTS, a, c)
        a, c = b.bitcast(a, INTS), b.bitcast(c, INTS)
        sixteen = self.constant(INTS, 16)
        low = b.mul(self.sign_extended_low_half(a, 16), self.sign_extended_low_half(c, 16))
        return b.add(low, b.mul(b.ashr(a, sixteen), b.ashr(c, sixteen)))
