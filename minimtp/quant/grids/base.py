"""What every grid can do, and what it refuses.

A grid rounds a matrix of weights to codes, small integers, and scales, which say what the codes of a group stand for:

    codes, scales = grid.encode(x)                 choose scales for x, then the codes
    values        = grid.decode(codes, scales)     what they stand for; the same numbers in every file and kernel
    codes         = grid.nearest(x, scales)  the nearest levels when the scales are given

`encode` is a format's own rule, bytes and all. `nearest` is what methods that choose scales themselves, or that round
one column after another (GPTQ), ask for; they pass `first`, the column where x begins within the matrix that the scales
belong to.

Scales are one float32 array (N, groups) where a group has one number, and a named tuple of arrays where it has more.
Values that are not finite are refused with a sentence that names the tensor: a NaN that becomes some code is never seen again.
"""

from abc import ABC, abstractmethod
from typing import Any

from minimtp.backend import Array, array_module, numpy
from minimtp.errors import UserError

Scales = Any  # an Array, or a named tuple of them

MASKS = ("pass", "round-clip", "clip-round")
LARGEST_FLOAT16 = 65504.0


class Grid(ABC):
    """A rule that rounds each group of neighbours in a row to codes and scales.

    name: what `grid_named` finds it by. smallest_code, largest_code: both inclusive.
    group_size: columns that share a scale; None where whole rows or the whole matrix do.
    largest_magnitude: of a weight whose scales are still finite numbers of their stored type.
    inputs: how a product by its weights has to round its inputs for the kernels to have it; "none": it never rounds them.
    """

    name: str
    group_size: int | None
    smallest_code: int
    largest_code: int
    largest_magnitude: float
    inputs: str = "int8"

    def encode(
        self, x: Array, name: str = "the array", importance: Array | None = None
    ) -> tuple[Array, Scales]:
        """x (N, K) -> codes int8 (N, K) and scales, each number exactly one of its stored type.

        x may be float32 or float64; the codes are chosen in float32, as in the stored format. importance: (K,), how much an
        error in a column costs (the mean square of the inputs it meets), for formats that can weigh errors.

        Raises UserError, calling the array `name`, for a shape that the grid cannot store, when a value is not finite or
        too large, and for an importance that is no such array or that the grid cannot use.
        """
        self.check_columns(x.shape, name)
        self.check_values(x, name)
        if importance is None:
            return self._encode(x)
        self._check_importance(x, importance, name)
        return self._encode_by_importance(x, importance.astype("float32", copy=False))

    def fake_quantize(self, x: Array, name: str = "the array") -> Array:
        """decode(*encode(x)) in the dtype of x; raises what `encode` raises.

        A GPU would have to stop for the values of every matrix to be checked. There, what is not finite or too large makes
        the loss infinite or no number instead, and training stops for that.
        """
        self.check_columns(x.shape, name)
        if array_module(x) is numpy:
            self.check_values(x, name)
        return self._fake_quantize(x)

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

    def check_values(self, x: Array, name: str) -> None:
        """Raise UserError if x holds a NaN, an infinity or a value whose scale would not be finite."""
        xp = array_module(x)
        flat = x.reshape(-1)
        # One cheap pass for the usual case: no element is larger than the norm, and a NaN fails every comparison.
        with numpy.errstate(over="ignore"):
            squares = float(xp.dot(flat, flat))
        if squares <= self.largest_magnitude**2:
            return
        if not bool(xp.isfinite(x).all()):
            raise UserError(
                f"{name} holds values that are not finite, so it cannot be quantized: training has diverged"
            )
        largest = float(xp.abs(x).max())
        if largest > self.largest_magnitude:
            raise UserError(
                f"{name} holds a value of magnitude {largest:g}, but {self.name} stores at most {self.largest_magnitude:g}"
            )

    @abstractmethod
    def check_columns(self, shape: tuple[int, ...], name: str) -> None:
        """Raise UserError unless a matrix of this shape can be stored."""

    @abstractmethod
    def decode(self, codes: Array, scales: Scales, first: int = 0) -> Array:
        """codes int8 (N, k), which begin at column `first` of what `scales` belong to -> float32 (N, k)."""

    @abstractmethod
    def nearest(self, x: Array, scales: Scales, first: int = 0) -> Array:
        """x (N, k), which begins at column `first` of what `scales` belong to -> the codes of the nearest levels, int8."""

    @abstractmethod
    def scales_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """The first two axes of the scales of a matrix (rows, columns)."""

    @abstractmethod
    def _encode(self, x: Array) -> tuple[Array, Scales]:
        """`encode` of an array that was checked."""

    @abstractmethod
    def _inside(self, x: Array, mask: str) -> Array | None:
        """`straight_through_mask` for round-clip and clip-round."""

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Scales]:
        raise UserError(
            f"{self.name} cannot weigh errors by importance: use q4_0, q4_1, q4_k or q6_k"
        )

    def _check_importance(self, x: Array, importance: Array, name: str) -> None:
        xp = array_module(x)
        if importance.shape != x.shape[1:] or not bool(
            (xp.isfinite(importance) & (importance >= 0)).all()
        ):
            raise UserError(
                f"the importance of {name} must be {x.shape[1]} finite numbers of at least 0, one per column: "
                f"it has shape {importance.shape}"
            )

    def _fake_quantize(self, x: Array) -> Array:
        return self.decode(*self._encode(x)).astype(x.dtype, copy=False)

    def __repr__(self) -> str:
        return self.name


def per_column(scales: Array, group_size: int, first: int, columns: int) -> Array:
    """One number per group (N, groups) -> one per column (N, columns), for the columns from `first` on."""
    return array_module(scales).repeat(scales, group_size, axis=1)[:, first : first + columns]


def rounded_to_float16(scales: Array) -> Array:
    """float32 numbers of any shape -> the nearest float16 values, as float32."""
    return scales.astype("float16").astype("float32")
