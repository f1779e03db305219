"""Grids: the numbers that a quantized weight may take, and the rule that picks one of them.

Rounding a weight to b bits means choosing, for each group of 32 neighbours in a row, a step d and for every weight x of the
group a small integer q, its code; the weight becomes q * d. A `Grid` is that rule. One object serves everything that rounds:
the forward pass of quantization-aware training (`fake.py`), rounding a finished model (`ptq.py`), conversion (`qat.py`) and
the bytes of a file (`packing.py`). If training rounded to one grid and the file to another, the second rounding would be an
error that nobody trained against; measured on other pairs of int4 grids, it adds 31-74 % to the error power.

    grid     codes      step d                      bits per weight      |x - q d| at most
    Q4_0     -8..7      (signed extreme) / -8       4 + 16/32 = 4.5      |d|     (half of it, unless the +8 is clipped)
    Q8_0     -127..127  max|x| / 127                8 + 16/32 = 8.5      d / 2   (both plus the rounding of d to float16)

The scale is stored as a float16, and it is rounded to one before anyone sees it: `encode` returns float32 numbers that are
exactly float16 values. That bounds what can be stored: a weight of more than `largest_magnitude` has no finite scale.
Steps under 2**-25 become 0, and with them the whole group.

The arithmetic itself, with its sources, is in `minimtp.kernels.blocks`, below the engine, because compiled kernels have to
agree with it bit for bit. Here it gets names, checks and the straight-through masks.

Rows are expected to be whole groups. Nothing is padded: a padded group has other bytes in every reader of these formats.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from minimtp import kernels
from minimtp.backend import array_module
from minimtp.errors import UserError
from minimtp.kernels import blocks

Array = Any  # a numpy.ndarray or a cupy.ndarray

MASKS = ("pass", "round-clip", "clip-round")
LARGEST_FLOAT16 = 65504.0


class Grid(ABC):
    """A rule that rounds each group of `group_size` neighbours in a row to codes times one scale."""

    name: ClassVar[str]
    group_size: ClassVar[int] = blocks.GROUP_SIZE
    smallest_code: ClassVar[int]
    largest_code: ClassVar[int]
    bits_per_weight: ClassVar[float]  # with the scale
    largest_magnitude: ClassVar[float]  # of a weight whose scale is still a finite float16

    def encode(self, x: Array, name: str = "the array") -> tuple[Array, Array]:
        """x (N, K) -> codes int8 (N, K) and scales float32 (N, K/32), each exactly a float16 value.

        x may be float32 or float64; the codes are chosen in float32, as in the stored format.

        Raises UserError, calling the array `name`, when a row is not whole groups or a value is not finite or too large.
        """
        self.check_columns(x.shape, name)
        self.check_values(x, name)
        return self._encode(x)

    def decode(self, codes: Array, scales: Array) -> Array:
        """codes int8 (N, K), scales float32 (N, K/32) -> float32 (N, K)."""
        return blocks.decode(codes, scales)

    def nearest(self, x: Array, scales: Array) -> Array:
        """The codes int8 (N, K) of the levels nearest to x (N, K) when the stored scales (N, K/32) are given.

        `encode` chooses scales and codes together. Methods that fix a group's scales and go on moving its weights (GPTQ), or
        that try other scales, need the second half alone. Values are not checked.
        """
        xp = array_module(x)
        steps = xp.repeat(scales, self.group_size, axis=-1)  # (N, K)
        levels = xp.where(steps == 0, xp.float32(0), x / xp.where(steps == 0, xp.float32(1), steps))
        return xp.clip(xp.rint(levels), self.smallest_code, self.largest_code).astype(xp.int8)

    def fake_quantize(self, x: Array, name: str = "the array") -> Array:
        """decode(*encode(x)) in the dtype of x, by the quickest kernel there is; raises what `encode` raises."""
        self.check_columns(x.shape, name)
        self.check_values(x, name)
        return getattr(kernels.for_array(x), f"fake_quantize_{self.name}")(x)

    def straight_through_mask(self, x: Array, mask: str) -> Array | None:
        """Which elements of x (N, K) pass their gradient on: booleans (N, K), or None when all of them do.

        pass        all
        round-clip  those whose rounded value is a code without clipping, smallest and largest code included
        clip-round  those that lie between the smallest and the largest level, both included

        Raises ValueError for another mask.
        """
        if mask not in MASKS:
            raise ValueError(f"unknown straight-through mask {mask!r}: use {', '.join(MASKS)}")
        return None if mask == "pass" else self._inside(x, mask)

    def check_columns(self, shape: tuple[int, ...], name: str) -> None:
        """Raise UserError unless the shape is (N, K) with K a multiple of the group size."""
        if len(shape) != 2 or shape[1] % self.group_size != 0:
            raise UserError(
                f"{name} has shape {tuple(shape)}, which {self.name} cannot store: "
                f"it takes matrices whose rows are multiples of {self.group_size} long"
            )

    def check_values(self, x: Array, name: str) -> None:
        """Raise UserError if x holds a NaN, an infinity or a value whose scale would not be finite."""
        xp = array_module(x)
        flat = x.reshape(-1)
        # One cheap pass for the usual case: no element is larger than the norm, and a NaN fails every comparison.
        if float(xp.dot(flat, flat)) <= self.largest_magnitude**2:
            return
        if not bool(xp.isfinite(x).all()):
            raise UserError(f"{name} holds values that are not finite, so it cannot be quantized: training has diverged")
        largest = float(xp.abs(x).max())
        if largest > self.largest_magnitude:
            raise UserError(
                f"{name} holds a value of magnitude {largest:g}, but {self.name} stores at most {self.largest_magnitude:g}"
            )

    @abstractmethod
    def _encode(self, x: Array) -> tuple[Array, Array]:
        """`encode` of an array that was checked."""

    @abstractmethod
    def _inside(self, x: Array, mask: str) -> Array | None:
        """`straight_through_mask` for round-clip and clip-round."""

    def __repr__(self) -> str:
        return type(self).__name__


class Q4_0Grid(Grid):
    """ggml's Q4_0: sixteen levels, the lowest of which is the group's signed extreme."""

    name = "q4_0"
    smallest_code, largest_code = -8, 7
    bits_per_weight = blocks.Q4_0_BLOCK_BYTES * 8 / blocks.GROUP_SIZE
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


class Q8_0Grid(Grid):
    """ggml's Q8_0: the largest magnitude of the group becomes the code 127 or -127."""

    name = "q8_0"
    smallest_code, largest_code = -127, 127
    bits_per_weight = blocks.Q8_0_BLOCK_BYTES * 8 / blocks.GROUP_SIZE
    largest_magnitude = 127 * LARGEST_FLOAT16

    def _encode(self, x: Array) -> tuple[Array, Array]:
        return blocks.encode_q8_0(x)

    def _inside(self, x: Array, mask: str) -> None:
        return None  # the step is made so that nothing lies outside


Q4_0 = Q4_0Grid()
Q8_0 = Q8_0Grid()
GRIDS: dict[str, Grid] = {grid.name: grid for grid in (Q4_0, Q8_0)}


def grid_named(name: str) -> Grid:
    """The grid of that name. Raises UserError that lists the known names."""
    if name not in GRIDS:
        raise UserError(f"unknown grid {name!r}: use {' or '.join(GRIDS)}")
    return GRIDS[name]
