"""Grids for groups of any size, and the groups that share a scale.

A scale belongs to the whole matrix ("tensor"), to a row ("channel"), or to a number of neighbours
in a row (an integer). The last group of a row may be shorter than the others and has its own scale.
Nothing is padded, so no statistic includes a number that is not a weight.

Scales are stored as float16 or float32, and are rounded to that type before the codes are chosen.
Groups whose scale is 0, or too small to be a normal float32 number, become zeros.
"""

from abc import abstractmethod
from collections.abc import Callable

from minimtp import kernels
from minimtp.backend import MAX_FLOAT16, Array, array_module, numpy
from minimtp.errors import UserError
from minimtp.kernels.plain.steps import MIN_STEP
from minimtp.quant.grids.base import Grid, per_column, round_to_float16

GRANULARITIES = ("tensor", "channel")  # or a number of columns
SCALE_BITS = {"float16": 16, "float32": 32}
MAX_FLOAT32 = float(numpy.finfo("float32").max)


class GroupedGrid(Grid):
    """A grid for groups of any size. Subclasses are dataclasses with at least these two fields.

    granularity: "tensor", "channel" (a row), or the number of columns in a group. scale_type:
    "float16" or "float32". Scales have the shape (1, 1), (N, 1) or (N, ceil(K / group size)).
    Raises UserError for unknown settings.
    """

    granularity: str | int
    scale_type: str
    bits: int  # per code
    bits_per_zero = 0  # bits of the zero point that is stored with each scale
    kind: str  # the first part of the name
    steps_to_the_extreme: float  # the largest magnitude of a group divided by its scale

    def __post_init__(self) -> None:
        is_group = isinstance(self.granularity, int) and self.granularity > 0
        if self.granularity not in GRANULARITIES and not is_group:
            raise UserError(
                f"unknown granularity {self.granularity!r}: use tensor, channel or a group's "
                "number of columns"
            )
        if self.scale_type not in SCALE_BITS:
            raise UserError(
                f"unknown scale type {self.scale_type!r}: use {' or '.join(SCALE_BITS)}"
            )

    @property
    def name(self) -> str:
        group = self.granularity if self.group_size is None else f"g{self.group_size}"
        return f"{self.kind}-{group}" + ("-f32" if self.scale_type == "float32" else "")

    @property
    def group_size(self) -> int | None:
        return self.granularity if isinstance(self.granularity, int) else None

    @property
    def max_magnitude(self) -> float:
        if self.scale_type == "float16":
            return self.steps_to_the_extreme * MAX_FLOAT16
        return MAX_FLOAT32 / 4

    def check_columns(self, shape: tuple[int, ...], name: str) -> None:
        """Raise UserError unless the shape is (N, K) with at least one element."""
        if len(shape) != 2 or 0 in shape:
            raise UserError(
                f"{name} has shape {tuple(shape)}, which {self.name} cannot store: it takes "
                "matrices with elements"
            )

    def scales_shape(self, rows: int, columns: int) -> tuple[int, int]:
        if self.granularity == "tensor":
            return 1, 1
        return rows, 1 if self.granularity == "channel" else -(-columns // self.granularity)

    @property
    def bits_per_scale(self) -> int:
        return SCALE_BITS[self.scale_type]

    @abstractmethod
    def scales(self, x: Array) -> Array:
        """Return the scales that `encode` chooses for a finite x (N, K)."""

    def _encode(self, x: Array) -> tuple[Array, Array]:
        scales = self.scales(x)
        return self.nearest(x, scales), scales

    def _stored(self, step: Array) -> Array:
        """float32 -> the nearest numbers of the scales' type, as float32."""
        if self.scale_type == "float16":
            return round_to_float16(step)
        return step.astype("float32", copy=False)

    def _over_groups(self, x: Array, statistic: Callable[[Array], Array]) -> Array:
        """x (N, K) -> the statistic of each group, in the shape of the scales. `statistic` reduces
        the last axis.
        """
        if self.granularity == "tensor":
            return statistic(x.reshape(1, -1))[:, None]
        if self.granularity == "channel":
            return statistic(x)[:, None]
        whole = x.shape[1] // self.granularity * self.granularity
        parts = [statistic(x[:, :whole].reshape(x.shape[0], -1, self.granularity))] if whole else []
        if whole < x.shape[1]:
            parts.append(statistic(x[:, whole:])[:, None])
        return array_module(x).concatenate(parts, axis=1)

    def _nearest_values(self, x: Array, step: Array, zero: Array | None = None) -> Array:
        """`nearest_values` for levels (code - zero) * step."""
        rows = x.reshape(len(step), -1)  # a single row if the whole matrix has one step
        size = self.group_size or rows.shape[1]
        codes = self.min_code, self.max_code
        values = kernels.for_array(x).fake_quantize_with_steps(rows, step, size, *codes, zero)
        return values.reshape(x.shape)

    def _spread(self, scales: Array, first: int, columns: int) -> Array:
        """One number per group -> an array that broadcasts against (N, columns)."""
        if self.group_size is None:
            return scales
        return per_column(scales, self.group_size, first, columns)


def signed_extremes(groups: Array) -> Array:
    """(..., n) -> the first element of largest magnitude of each group, (...)."""
    return kernels.for_array(groups).signed_extremes(groups)


def ranges(groups: Array) -> Array:
    """(..., n) -> the smallest and the largest element of each group, (..., 2)."""
    return kernels.for_array(groups).ranges(groups)


def divisor(step: Array) -> Array:
    """Return the step, or infinity if it is too small to divide by: x / infinity is level 0."""
    xp = array_module(step)
    return xp.where(xp.abs(step) >= xp.float32(MIN_STEP), step, xp.float32("inf"))
