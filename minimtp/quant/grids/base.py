"""The interface of all grids, and the inputs that all of them reject.

A grid rounds a matrix of weights to codes, which are small integers, and to scales, which give the
codes of a group their values:

    codes, scales = grid.encode(x)              choose scales for x, then the codes
    values        = grid.decode(codes, scales)  the same numbers in every file and kernel
    codes         = grid.nearest(x, scales)     the nearest levels for given scales

`encode` is the format's own rule, down to the bytes. `nearest` is for methods that choose scales
themselves or that round one column after another (GPTQ). Those pass `first`, the column at which x
begins in the matrix that the scales belong to.

Scales are one float32 array (N, groups) if a group has one number, and a named tuple of arrays if
it has more. A value that is not finite raises an error that names the tensor. Otherwise a NaN would
silently become a code.
"""

from abc import ABC, abstractmethod
from types import ModuleType

from minimtp import kernels
from minimtp.backend import Array, array_module, numpy
from minimtp.errors import UserError
from minimtp.kernels.plain.packed_linear import PreparedMatrix

Scales = Array | tuple[Array, ...]

MASKS = ("pass", "round-clip", "clip-round")


class Grid(ABC):
    """A rule that rounds each group of neighbours in a row to codes and scales.

    name: `grid_named(name)` returns the grid. min_code, max_code: both inclusive.
    group_size: columns that share a scale; None if whole rows or the whole matrix do.
    max_magnitude: the largest weight whose scales are finite numbers of their stored type.
    scale_type: the type in which scales are stored, "float16" or "float32".
    inputs: the rounding of a matmul's inputs that the kernels implement for this grid; "none":
    inputs are never rounded.
    has_kernels: whether the kernels multiply by packed rows of this grid, without decoding them to
    floats first.
    """

    name: str
    group_size: int | None
    min_code: int
    max_code: int
    max_magnitude: float
    scale_type: str = "float16"
    inputs: str = "int8"
    has_kernels: bool = False

    def encode(
        self, x: Array, name: str = "the array", importance: Array | None = None
    ) -> tuple[Array, Scales]:
        """x (N, K) float32 or float64 -> codes int8 (N, K) and scales, each exactly a number of its
        stored type.

        The codes are chosen in float32, as in the stored format. importance: (K,), the cost of an
        error in a column (the mean square of its inputs), for formats that can weight errors.

        Raises UserError, calling the array `name`, if the grid cannot store the shape, if a value
        is not finite or too large, or if `importance` has the wrong shape, has invalid values, or
        is not supported by the grid.
        """
        self.check_columns(x.shape, name)
        self.check_values(x, name)
        if importance is None:
            return self._encode(x)
        self._check_importance(x, importance, name)
        return self._encode_by_importance(x, importance.astype("float32", copy=False))

    def fake_quantize(self, x: Array, name: str = "the array") -> Array:
        """Return decode(*encode(x)) in the dtype of x. Raises the errors of `encode`.

        Values are checked only on the CPU. On a GPU the check would have to wait for every matrix.
        There, a value that is not finite or too large makes the loss NaN or infinite instead, and
        that stops the training.
        """
        self.check_in_training(x, name)
        return self._fake_quantize(x)

    def check_in_training(self, x: Array, name: str) -> None:
        """Raise the errors of `encode`, but on a GPU only those that do not wait for it."""
        self.check_columns(x.shape, name)
        if array_module(x) is numpy:
            self.check_values(x, name)

    def scales(self, x: Array) -> Scales:
        """Return the scales that `encode` chooses for a finite x (N, K)."""
        return self._encode(x)[1]

    def nearest_values(self, x: Array, scales: Scales) -> Array:
        """x (N, K) -> the values of the nearest levels for given scales, (N, K) in the dtype of x:
        `decode` of `nearest`. Zero points must be whole numbers.
        """
        return self.decode(self.nearest(x, scales), scales).astype(x.dtype, copy=False)

    def outermost_levels(self, scales: Scales) -> tuple[Array, Array]:
        """Return the values of the smallest and of the largest code, float32 (N, groups) each. Only
        for grids with one step per group.
        """
        raise TypeError(f"{self.name} has no single step per group")

    def straight_through_mask(self, x: Array, mask: str) -> Array | None:
        """Return which elements of x (N, K) pass their gradient: booleans (N, K), or None if all
        do.

            pass        all elements
            round-clip  elements whose rounded value is a code without clipping (the smallest and
                        the largest code included)
            clip-round  elements between the smallest and the largest level, inclusive

        Raises ValueError for another mask.
        """
        if mask not in MASKS:
            raise ValueError(f"unknown straight-through mask {mask!r}: use {', '.join(MASKS)}")
        return None if mask == "pass" else self._inside(x, mask)

    def check_values(self, x: Array, name: str) -> None:
        """Raise UserError if a value of x, or its scale, would not be finite."""
        xp = array_module(x)
        flat = x.reshape(-1)
        # One cheap pass for the usual case: no element is larger than the norm, and every
        # comparison with a NaN is false.
        with numpy.errstate(over="ignore", invalid="ignore"):
            squares = float(xp.dot(flat, flat))
        if squares <= self.max_magnitude**2:
            return
        if not bool(xp.isfinite(x).all()):
            raise UserError(
                f"{name} holds values that are not finite, so it cannot be quantized: training has "
                "diverged"
            )
        largest = float(xp.abs(x).max())
        if largest > self.max_magnitude:
            raise UserError(
                f"{name} holds a value of magnitude {largest:g}, but {self.name} stores at most "
                f"{self.max_magnitude:g}: choose a grid with a larger range, or check the model"
            )

    def prepare(self, packed: Array, kernel: ModuleType) -> PreparedMatrix:
        """Lay out packed rows, uint8 (N, bytes per row), for `kernel.linear`. Only for grids with
        `has_kernels`.
        """
        raise TypeError(f"the kernels cannot multiply by rows of {self.name}: decode them first")

    @abstractmethod
    def check_columns(self, shape: tuple[int, ...], name: str) -> None:
        """Raise UserError unless a matrix of this shape can be stored."""

    @abstractmethod
    def decode(self, codes: Array, scales: Scales, first: int = 0) -> Array:
        """codes int8 (N, k), from column `first` of the scales' matrix -> float32 (N, k).

        scales: finite numbers, as `encode` returns them and as files are checked to hold.
        """

    @abstractmethod
    def nearest(self, x: Array, scales: Scales, first: int = 0) -> Array:
        """x (N, k), which begins at column `first` of the scales' matrix -> the codes of the
        nearest levels, int8 (N, k).
        """

    @abstractmethod
    def scales_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the first two axes of the scales of a matrix (rows, columns)."""

    @abstractmethod
    def _encode(self, x: Array) -> tuple[Array, Scales]:
        """`encode` of an array that was checked."""

    @abstractmethod
    def _inside(self, x: Array, mask: str) -> Array | None:
        """`straight_through_mask` for round-clip and clip-round."""

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Scales]:
        raise UserError(
            f"{self.name} does not support importance-weighted errors: use q4_0, q4_1, q5_0, q5_1, "
            "q8_0, q4_k or q6_k"
        )

    def _check_importance(self, x: Array, importance: Array, name: str) -> None:
        valid = importance.shape == x.shape[1:]
        if valid:
            valid = bool((array_module(x).isfinite(importance) & (importance >= 0)).all())
        if not valid:
            raise UserError(
                f"the importance of {name} must be {x.shape[1]} finite numbers of at least 0, one "
                "per column: "
                f"it has shape {importance.shape}"
            )

    def _fake_quantize(self, x: Array) -> Array:
        return self.decode(*self._encode(x)).astype(x.dtype, copy=False)

    def __repr__(self) -> str:
        return self.name


def per_column(scales: Array, group_size: int, first: int, columns: int) -> Array:
    """One number per group (N, groups) -> one per column (N, columns), for the columns from `first`
    on.
    """
    begin, end = first // group_size, -(-(first + columns) // group_size)  # groups
    repeated = array_module(scales).repeat(scales[:, begin:end], group_size, axis=1)
    offset = first - begin * group_size
    return repeated[:, offset : offset + columns]


def in_steps(x: Array, step: Array) -> Array:
    """Return x / step, float32. Quotients beyond float32 are infinite: clipping makes them the
    smallest or the largest code.
    """
    with numpy.errstate(over="ignore"):
        return x / step


def round_to_float16(scales: Array) -> Array:
    """Numbers of any shape -> the nearest float16 values, as float32."""
    return kernels.for_array(scales).float16_values(scales)
