"""ggml's block formats as grids: names, checks and masks around the arithmetic of
`minimtp.kernels.ggml`.

    name   block  bits     value                               scales
    q4_0   32     4.5      code * d                            d (N, K/32)
    q4_1   32     5.0      code * d + m                        Q4_1Scales(step, minimum)
    q8_0   32     8.5      code * d                            d (N, K/32)
    f16    1      16       the float16 whose bits the code is  NoScales()

superblocks.py has q4_k and q6_k. The arithmetic, with its sources, is in `kernels/ggml/`, because
the compiled kernels have to match it bit for bit. Rows have to be whole blocks. Nothing is padded,
because other programs would read a padded group as different weights.
"""

from abc import abstractmethod
from types import ModuleType
from typing import ClassVar, NamedTuple

from minimtp import kernels
from minimtp.backend import MAX_FLOAT16, Array, array_module
from minimtp.errors import UserError
from minimtp.kernels.ggml import blocks, importance_weighted
from minimtp.kernels.plain.packed_linear import PreparedMatrix
from minimtp.quant.grids.base import Grid, Scales, in_steps, per_column, round_to_float16
from minimtp.quant.grids.rounding import half_even


class NoScales(NamedTuple):
    """No scales: every code represents a number without a scale."""


class Q4_1Scales(NamedTuple):
    """float32 (N, K/32) each."""

    step: Array
    minimum: Array


class BlockGrid(Grid):
    """A grid whose groups are blocks of bytes that other programs can read.

    group_size: weights per block. block_bytes: bytes per block. float16_at: where the block has
    float16 numbers.
    """

    name: ClassVar[str]
    group_size: ClassVar[int] = blocks.GROUP_SIZE
    block_bytes: ClassVar[int]
    float16_at: ClassVar[tuple[int, ...]] = (0,)

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, including the scales."""
        return 8 * self.block_bytes / self.group_size

    def scales_shape(self, rows: int, columns: int) -> tuple[int, int]:
        return rows, columns // self.group_size

    def check_columns(self, shape: tuple[int, ...], name: str) -> None:
        """Raise UserError unless the shape is (N, K) with K a multiple of the group size."""
        if len(shape) != 2 or shape[1] % self.group_size != 0:
            raise UserError(
                f"{name} has shape {tuple(shape)}, which {self.name} cannot store: "
                f"it takes matrices whose rows are multiples of {self.group_size} long"
            )

    @abstractmethod
    def pack(self, codes: Array, scales: Scales) -> Array:
        """The codes and scales of `encode` -> blocks uint8 (N, K / group size * block bytes)."""

    @abstractmethod
    def unpack(self, packed: Array) -> tuple[Array, Scales]:
        """Blocks -> codes and scales. The inverse of `pack`."""


class SteppedGrid(BlockGrid):
    """A block grid with equally spaced levels. `columns_per_step` neighbours share a step."""

    columns_per_step: ClassVar[int] = blocks.GROUP_SIZE

    def decode(self, codes: Array, scales: Scales, first: int = 0) -> Array:
        (rows, columns), size = codes.shape, self.columns_per_step
        if first % size or columns % size:
            step, offset = self._steps_and_offsets(scales, first, columns)
            values = codes.astype("float32") * step
            return values if offset is None else values + offset
        # Whole groups: in place, and without a copy of the step for each column.
        groups = slice(first // size, (first + columns) // size)
        step, offset = self._steps(scales)
        values = codes.astype("float32", order="C").reshape(rows, -1, size)
        values *= step[:, groups, None]
        if offset is not None:
            values += offset[:, groups, None]
        return values.reshape(rows, columns)

    def nearest(self, x: Array, scales: Scales, first: int = 0) -> Array:
        levels = half_even(self._in_steps(x, scales, first))
        return array_module(x).clip(levels, self.min_code, self.max_code).astype("int8")

    def nearest_values(self, x: Array, scales: Scales) -> Array:
        step, offset = self._steps(scales)
        codes = self.columns_per_step, self.min_code, self.max_code
        return kernels.for_array(x).fake_quantize_with_steps(x, step, *codes, minima=offset)

    def outermost_levels(self, scales: Scales) -> tuple[Array, Array]:
        step, offset = self._steps(scales)
        first, last = (array_module(step).float32(c) * step for c in (self.min_code, self.max_code))
        return (first, last) if offset is None else (first + offset, last + offset)

    @abstractmethod
    def _steps(self, scales: Scales) -> tuple[Array, Array | None]:
        """Return the step of each `columns_per_step` columns, and the offset if a value is code *
        step + offset.
        """

    def _steps_and_offsets(
        self, scales: Scales, first: int, columns: int
    ) -> tuple[Array, Array | None]:
        """Return the step and the offset of each column, (N, columns)."""
        step, offset = self._steps(scales)
        step = per_column(step, self.columns_per_step, first, columns)
        if offset is not None:
            offset = per_column(offset, self.columns_per_step, first, columns)
        return step, offset

    def _in_steps(self, x: Array, scales: Scales, first: int = 0) -> Array:
        """Return x in units of the step, float32; 0 if the step is 0."""
        xp = array_module(x)
        x = x.astype(xp.float32, copy=False)
        step, offset = self._steps_and_offsets(scales, first, x.shape[1])
        x = x if offset is None else x - offset
        usable = xp.where(step == 0, xp.float32(1), step)
        return xp.where(step == 0, xp.float32(0), in_steps(x, usable))

    def _inside(self, x: Array, mask: str) -> Array | None:
        levels = self._in_steps(x, self._encode(x)[1])
        levels = half_even(levels) if mask == "round-clip" else levels
        return (levels >= self.min_code) & (levels <= self.max_code)


class Q4_0Grid(SteppedGrid):
    """ggml's Q4_0: sixteen levels. The lowest is the group's element of largest magnitude, with its
    sign.

    The bytes are those of ggml for every group whose step d, a float32, is 0 or has a magnitude
    above 2**-128. At and below it, 1/d overflows, and ggml casts an infinite number to an integer,
    with a result that depends on the processor. The codes here are 0 then. The values are zeros in
    either case.
    """

    name = "q4_0"
    has_kernels = True
    min_code, max_code = -8, 7
    block_bytes = blocks.Q4_0_BLOCK_BYTES
    max_magnitude = 8 * MAX_FLOAT16

    def prepare(self, packed: Array, kernel: ModuleType) -> PreparedMatrix:
        return kernel.prepare_q4_0(packed)

    def pack(self, codes: Array, scales: Array) -> Array:
        return blocks.pack_q4_0(codes, scales)

    def unpack(self, packed: Array) -> tuple[Array, Array]:
        return blocks.unpack_q4_0(packed)

    def scales(self, x: Array) -> Array:
        return round_to_float16(_extremes(x) / array_module(x).float32(self.min_code))

    def _encode(self, x: Array) -> tuple[Array, Array]:
        return blocks.encode_q4_0(x)

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Array]:
        return importance_weighted.encode_q4_0_by_importance(x, importance)

    def _steps(self, scales: Array) -> tuple[Array, None]:
        return scales, None

    def _fake_quantize(self, x: Array) -> Array:
        return kernels.for_array(x).fake_quantize_q4_0(x)

    def _inside(self, x: Array, mask: str) -> Array:
        """Only weights with the opposite sign of the extreme can lie outside: x / d is -8 at the
        extreme and up to 8 for them.
        """
        xp = array_module(x)
        levels, step = self._levels(x)  # (N, K/32, 32), (N, K/32, 1)
        if mask == "round-clip":
            inside = levels <= self.max_code - self.min_code
        else:
            # x / d <= 7 without the rounding error of the division: 8 |d| - x / sign(d) >= |d|.
            # Near the limit this difference of floats is exact (Sterbenz), and a step of 0 needs no
            # special case.
            groups = x.astype(xp.float32, copy=False).reshape(levels.shape)
            inside = -self.min_code * xp.abs(step) - xp.sign(step) * groups >= xp.abs(step)
        return inside.reshape(x.shape)

    def _levels(self, x: Array) -> tuple[Array, Array]:
        """Return the codes before clipping, counted from the lowest, and the steps."""
        return blocks.levels_q4_0(x)


class Q4_1Grid(SteppedGrid):
    """ggml's Q4_1: sixteen levels from the group's smallest to its largest weight. Zero need not be
    a level.
    """

    name = "q4_1"
    has_kernels = True
    min_code, max_code = 0, 15
    block_bytes = blocks.Q4_1_BLOCK_BYTES
    float16_at = (0, 2)
    max_magnitude = MAX_FLOAT16  # the minimum is stored unscaled

    def prepare(self, packed: Array, kernel: ModuleType) -> PreparedMatrix:
        return kernel.prepare_q4_1(packed)

    def pack(self, codes: Array, scales: Q4_1Scales) -> Array:
        return blocks.pack_q4_1(codes, *scales)

    def unpack(self, packed: Array) -> tuple[Array, Q4_1Scales]:
        codes, *scales = blocks.unpack_q4_1(packed)
        return codes, Q4_1Scales(*scales)

    def scales(self, x: Array) -> Q4_1Scales:
        groups = blocks.groups_float32(x)
        ends = kernels.for_array(groups).ranges(groups)  # (N, K/32, 2)
        step = (ends[..., 1] - ends[..., 0]) / array_module(x).float32(self.max_code)
        return Q4_1Scales(round_to_float16(step), round_to_float16(ends[..., 0]))

    def _encode(self, x: Array) -> tuple[Array, Q4_1Scales]:
        codes, *scales = blocks.encode_q4_1(x)
        return codes, Q4_1Scales(*scales)

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Q4_1Scales]:
        codes, *scales = importance_weighted.encode_q4_1_by_importance(x, importance)
        return codes, Q4_1Scales(*scales)

    def _steps(self, scales: Q4_1Scales) -> tuple[Array, Array]:
        return scales.step, scales.minimum

    def _inside(self, x: Array, mask: str) -> None:
        return None  # the lowest and the highest level are the extremes themselves


class Q8_0Grid(SteppedGrid):
    """ggml's Q8_0: the largest magnitude of the group becomes the code 127 or -127."""

    name = "q8_0"
    has_kernels = True
    min_code, max_code = -127, 127
    block_bytes = blocks.Q8_0_BLOCK_BYTES
    max_magnitude = 127 * MAX_FLOAT16

    def prepare(self, packed: Array, kernel: ModuleType) -> PreparedMatrix:
        return kernel.prepare_q8_0(packed)

    def pack(self, codes: Array, scales: Array) -> Array:
        return blocks.pack_q8_0(codes, scales)

    def unpack(self, packed: Array) -> tuple[Array, Array]:
        return blocks.unpack_q8_0(packed)

    def scales(self, x: Array) -> Array:
        xp = array_module(x)
        return round_to_float16(xp.abs(_extremes(x)) / xp.float32(self.max_code))

    def _encode(self, x: Array) -> tuple[Array, Array]:
        return blocks.encode_q8_0(x)

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Array]:
        return blocks.encode_q8_0(x)  # as in ggml: with 255 levels, there is nothing to gain

    def _steps(self, scales: Array) -> tuple[Array, None]:
        return scales, None

    def _fake_quantize(self, x: Array) -> Array:
        return kernels.for_array(x).fake_quantize_q8_0(x)

    def _inside(self, x: Array, mask: str) -> None:
        return None  # the step is chosen so that nothing lies outside


def _extremes(x: Array) -> Array:
    """x (N, K) -> the first element of largest magnitude of each group, float32 (N, K/32)."""
    groups = blocks.groups_float32(x)
    return kernels.for_array(groups).signed_extremes(groups)


class F16Grid(BlockGrid):
    """float16: the nearest 16-bit number, without groups. It is the half-precision baseline of the
    smaller grids.

    Codes are the bits of the numbers, int16. A matmul does not round its inputs. GPUs multiply by
    float16 numbers directly. The CPU has no such matmul, so its kernels keep the numbers as
    float32, with the same results and twice the memory.
    """

    name = "f16"
    has_kernels = True
    inputs = "none"
    group_size = 1
    min_code, max_code = -(2**15), 2**15 - 1
    block_bytes = 2
    max_magnitude = MAX_FLOAT16

    def prepare(self, packed: Array, kernel: ModuleType) -> PreparedMatrix:
        return kernel.prepare_f16(packed)

    def pack(self, codes: Array, scales: NoScales) -> Array:
        return array_module(codes).ascontiguousarray(codes.astype("<i2", copy=False)).view("uint8")

    def unpack(self, packed: Array) -> tuple[Array, NoScales]:
        return array_module(packed).ascontiguousarray(packed).view("<i2"), NoScales()

    def decode(self, codes: Array, scales: NoScales, first: int = 0) -> Array:
        return codes.view("float16").astype("float32")

    def nearest(self, x: Array, scales: NoScales, first: int = 0) -> Array:
        x = array_module(x).clip(x, -self.max_magnitude, self.max_magnitude)
        return self._encode(x)[0]

    def scales_shape(self, rows: int, columns: int) -> tuple[int, int]:
        return rows, 0

    def _encode(self, x: Array) -> tuple[Array, NoScales]:
        return x.astype("float32", copy=False).astype("float16").view("int16"), NoScales()

    def _inside(self, x: Array, mask: str) -> Array:
        return array_module(x).abs(x) <= self.max_magnitude
