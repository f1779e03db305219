"""ggml's block formats as grids: names, checks and masks around the arithmetic of `minimtp.kernels.blocks`.

The arithmetic, with its sources, lives below the engine because compiled kernels have to agree with it bit for bit.
Rows have to be whole blocks. Nothing is padded: a padded group has other bytes in every reader of these formats.
"""

from abc import abstractmethod
from typing import ClassVar

from minimtp import kernels
from minimtp.backend import array_module
from minimtp.errors import UserError
from minimtp.kernels import blocks
from minimtp.quant.grids_base import LARGEST_FLOAT16, Array, Grid, per_column
from minimtp.quant.rounding import half_even


class BlockGrid(Grid):
    """A grid whose groups are blocks of bytes that other programs read."""

    name: ClassVar[str]
    group_size: ClassVar[int] = blocks.GROUP_SIZE
    block_bytes: ClassVar[int]

    @property
    def bits_per_weight(self) -> float:
        """With the scales."""
        return 8 * self.block_bytes / self.group_size

    def stored_bits(self, rows: int, columns: int) -> int:
        return rows * columns // self.group_size * self.block_bytes * 8

    def check_columns(self, shape: tuple[int, ...], name: str) -> None:
        """Raise UserError unless the shape is (N, K) with K a multiple of the group size."""
        if len(shape) != 2 or shape[1] % self.group_size != 0:
            raise UserError(
                f"{name} has shape {tuple(shape)}, which {self.name} cannot store: "
                f"it takes matrices whose rows are multiples of {self.group_size} long"
            )


class SignedBlockGrid(BlockGrid):
    """A block grid with one scale per group: a value is code * scale."""

    def decode(self, codes: Array, scales: Array, first: int = 0) -> Array:
        return codes.astype("float32") * per_column(scales, self.group_size, first, codes.shape[1])

    def nearest(self, x: Array, scales: Array, first: int = 0) -> Array:
        xp = array_module(x)
        step = per_column(scales, self.group_size, first, x.shape[1])
        levels = half_even(x.astype(xp.float32, copy=False) / xp.where(step == 0, xp.float32(1), step))
        return xp.clip(xp.where(step == 0, xp.float32(0), levels), self.smallest_code, self.largest_code).astype(xp.int8)

    def _fake_quantize(self, x: Array) -> Array:
        return getattr(kernels.for_array(x), f"fake_quantize_{self.name}")(x)

    @abstractmethod
    def _encode(self, x: Array) -> tuple[Array, Array]: ...


class Q4_0Grid(SignedBlockGrid):
    """ggml's Q4_0: sixteen levels, the lowest of which is the group's signed extreme."""

    name = "q4_0"
    smallest_code, largest_code = -8, 7
    block_bytes = blocks.Q4_0_BLOCK_BYTES
    largest_magnitude = 8 * LARGEST_FLOAT16

    def _encode(self, x: Array) -> tuple[Array, Array]:
        return blocks.encode_q4_0(x)

    def _inside(self, x: Array, mask: str) -> Array:
        """Only the side opposite to the extreme can leave the grid: x / d is -8 at the extreme and reaches up to 8 there."""
        xp = array_module(x)
        levels, step = blocks.levels_q4_0(x)  # (N, K/32, 32), (N, K/32, 1)
        if mask == "round-clip":
            inside = levels <= self.largest_code + 8
        else:
            # x / d <= 7 without its rounding error: 8 |d| - x / sign(d) >= |d|. Near the limit this difference of floats
            # is exact (Sterbenz), and a step of zero needs no special case.
            groups = x.astype(xp.float32, copy=False).reshape(levels.shape)
            inside = 8 * xp.abs(step) - xp.sign(step) * groups >= xp.abs(step)
        return inside.reshape(x.shape)


class Q8_0Grid(SignedBlockGrid):
    """ggml's Q8_0: the largest magnitude of the group becomes the code 127 or -127."""

    name = "q8_0"
    smallest_code, largest_code = -127, 127
    block_bytes = blocks.Q8_0_BLOCK_BYTES
    largest_magnitude = 127 * LARGEST_FLOAT16

    def _encode(self, x: Array) -> tuple[Array, Array]:
        return blocks.encode_q8_0(x)

    def _inside(self, x: Array, mask: str) -> None:
        return None  # the step is made so that nothing lies outside
