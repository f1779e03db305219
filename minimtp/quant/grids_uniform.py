"""Uniform grids: equally spaced levels, 2 to 8 bits, one scale for a group, a row or the whole matrix.

With b bits the codes run from q_min = -2**(b-1) to q_max = 2**(b-1) - 1. What the scale s is made from has a name, because
grids with different policies are different grids: a model trained on one and stored on another is quantized twice.
With a = max|x| over the group and m the first element that attains it, with its sign:

    restricted     s = a / q_max                    codes -q_max..q_max    symmetric: Q(-x) = -Q(x); one code is never used
    full-mid       s = a / ((q_max - q_min) / 2)    codes  q_min..q_max    the policy of torchao's SYMMETRIC; both extremes
                                                                           lie half a step outside the codes' middle range
    ggml-signed    s = m / q_min, may be negative   codes  q_min..q_max    the extreme is a level; what lies opposite to it
                                                                           is clipped from -q_min to q_max
    affine         s = (hi - lo) / (q_max - q_min)  codes  q_min..q_max    lo = min(0, min x), hi = max(0, max x)
                   z = q_min - round(lo / s)                               zero is the code z, exactly

    code = clip(round(x / s) + z, q_min, q_max)     value = (code - z) * s                            z = 0 unless affine

Divide, do not multiply by a reciprocal; round, then add z; the scale is rounded to its stored type *before* the codes are
chosen, so that they are the nearest levels of the grid that is stored. A float16 scale (11 significant bits) times a code of
8 bits is exact in float32.

Groups whose scale is 0, or so small that it is no normal float32, become zeros. The last group of a row may be shorter than
the others and has a scale of its own; nothing is padded, so no statistic sees a number that is not a weight.

Sources: Krishnamoorthi 2018 (arXiv 1806.08342, equations 2-8) for affine and symmetric, torchao's `choose_qparams` for
full-mid, ggml's `quantize_row_q4_0_ref` for the signed extreme.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from minimtp.backend import array_module, numpy
from minimtp.errors import UserError
from minimtp.quant.grids_base import LARGEST_FLOAT16, Array, Grid, per_column, rounded_to_float16
from minimtp.quant.rounding import Rounding, half_even

SYMMETRIC_POLICIES = ("restricted", "full-mid", "ggml-signed")
POLICIES = (*SYMMETRIC_POLICIES, "affine")
GRANULARITIES = ("tensor", "channel")  # or a number of columns
SCALE_TYPES = ("float16", "float32")
SMALLEST_NORMAL = 2.0**-126  # of float32
LARGEST_FLOAT32 = float(numpy.finfo("float32").max)


class AffineScales(NamedTuple):
    """step float32 and zero point float32 (whole numbers when the grid chose them), each one per group."""

    step: Array
    zero: Array


@dataclass(frozen=True, repr=False)
class UniformGrid(Grid):
    """Equally spaced levels.

    bits: 2..8; policy: one of POLICIES; granularity: "tensor", "channel" (a row), or how many columns make a group;
    rounding: a function from `minimtp.quant.rounding`; scale_type: "float16" or "float32", what a scale is stored as.
    Scales have the shape (1, 1), (N, 1) or (N, ceil(K / group size)); `affine` has AffineScales of that shape.
    Raises UserError for settings that do not exist.
    """

    bits: int
    policy: str
    granularity: str | int
    rounding: Rounding = half_even
    scale_type: str = "float16"

    def __post_init__(self) -> None:
        if self.bits not in range(2, 9):
            raise UserError(f"a uniform grid has 2 to 8 bits, not {self.bits!r}")
        if self.policy not in POLICIES:
            raise UserError(f"unknown scale policy {self.policy!r}: use {', '.join(POLICIES)}")
        if self.granularity not in GRANULARITIES and not (isinstance(self.granularity, int) and self.granularity > 0):
            raise UserError(f"unknown granularity {self.granularity!r}: use tensor, channel or a group's number of columns")
        if self.scale_type not in SCALE_TYPES:
            raise UserError(f"unknown scale type {self.scale_type!r}: use {' or '.join(SCALE_TYPES)}")

    @property
    def name(self) -> str:
        group = self.granularity if self.group_size is None else f"g{self.group_size}"
        return f"int{self.bits}-{self.policy}-{group}" + ("-f32" if self.scale_type == "float32" else "")

    @property
    def group_size(self) -> int | None:
        return self.granularity if isinstance(self.granularity, int) else None

    @property
    def largest_code(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def smallest_code(self) -> int:
        return -self.largest_code if self.policy == "restricted" else -(2 ** (self.bits - 1))

    @property
    def steps_to_the_extreme(self) -> float:
        """The largest magnitude of a group, in steps; for `affine` half the distance between lowest and highest value."""
        return {"restricted": self.largest_code, "ggml-signed": -self.smallest_code}.get(self.policy, self.largest_code + 0.5)

    @property
    def largest_magnitude(self) -> float:
        return self.steps_to_the_extreme * LARGEST_FLOAT16 if self.scale_type == "float16" else LARGEST_FLOAT32 / 4

    def check_columns(self, shape: tuple[int, ...], name: str) -> None:
        """Raise UserError unless the shape is that of a matrix with at least one element."""
        if len(shape) != 2 or 0 in shape:
            raise UserError(f"{name} has shape {tuple(shape)}, which {self.name} cannot store: it takes matrices with elements")

    def stored_bits(self, rows: int, columns: int) -> int:
        groups = {"tensor": 1, "channel": rows}.get(self.granularity) or rows * -(-columns // self.granularity)
        scale = {"float16": 16, "float32": 32}[self.scale_type] + (self.bits if self.policy == "affine" else 0)
        return rows * columns * self.bits + groups * scale

    def decode(self, codes: Array, scales: Any, first: int = 0) -> Array:
        step, zero = self._per_column(scales, first, codes.shape[1])
        return (codes.astype("float32") - zero) * step

    def nearest(self, x: Array, scales: Any, first: int = 0) -> Array:
        xp = array_module(x)
        levels = self._levels(x, *self._per_column(scales, first, x.shape[1]))
        return xp.clip(levels, self.smallest_code, self.largest_code).astype(xp.int8)

    def scales(self, x: Array) -> Any:
        """The scales of a finite x (N, K), as `encode` chooses them."""
        xp = array_module(x)
        x = x.astype(xp.float32, copy=False)
        zero = xp.float32(0)
        if self.policy != "affine":
            extreme = self._over_groups(x, _signed_extreme)
            if self.policy == "ggml-signed":
                return self._stored(extreme / xp.float32(self.smallest_code))
            return self._stored(xp.abs(extreme) / xp.float32(self.steps_to_the_extreme))
        low = xp.minimum(self._over_groups(x, lambda group: group.min(axis=-1)), zero)
        high = xp.maximum(self._over_groups(x, lambda group: group.max(axis=-1)), zero)
        step = self._stored((high - low) / xp.float32(self.largest_code - self.smallest_code))
        offset = self.smallest_code - self.rounding(low / _divisor(step))
        return AffineScales(step, xp.clip(offset, self.smallest_code, self.largest_code))

    def _encode(self, x: Array) -> tuple[Array, Any]:
        scales = self.scales(x)
        return self.nearest(x, scales), scales

    def _inside(self, x: Array, mask: str) -> Array:
        step, zero = self._per_column(self.scales(x), 0, x.shape[1])
        levels = self._levels(x, step, zero) if mask == "round-clip" else _in_steps(x, step) + zero
        return (levels >= self.smallest_code) & (levels <= self.largest_code)

    def _levels(self, x: Array, step: Array, zero: Array) -> Array:
        """The codes before clipping, float32."""
        return self.rounding(_in_steps(x, step)) + zero

    def _stored(self, step: Array) -> Array:
        return rounded_to_float16(step) if self.scale_type == "float16" else step

    def _over_groups(self, x: Array, statistic: Callable[[Array], Array]) -> Array:
        """x (N, K) -> `statistic` of each group, in the shape of the scales."""
        xp = array_module(x)
        if self.granularity == "tensor":
            return statistic(x.reshape(1, -1))[:, None]
        if self.granularity == "channel":
            return statistic(x)[:, None]
        whole = x.shape[1] // self.group_size * self.group_size
        parts = [statistic(x[:, :whole].reshape(x.shape[0], -1, self.group_size))] if whole else []
        if whole < x.shape[1]:
            parts.append(statistic(x[:, whole:])[:, None])
        return xp.concatenate(parts, axis=1)

    def _per_column(self, scales: Any, first: int, columns: int) -> tuple[Array, Array]:
        """Step and zero point, each broadcasting against (N, columns)."""
        step, zero = scales if self.policy == "affine" else (scales, array_module(scales).float32(0))
        if self.group_size is None:
            return step, zero
        spread = [per_column(numbers, self.group_size, first, columns) if numbers.ndim else numbers for numbers in (step, zero)]
        return spread[0], spread[1]


def _signed_extreme(group: Array) -> Array:
    """(..., n) -> the first element of largest magnitude, (...)."""
    xp = array_module(group)
    first = xp.argmax(xp.abs(group), axis=-1)[..., None]
    return xp.take_along_axis(group, first, axis=-1)[..., 0]


def _in_steps(x: Array, step: Array) -> Array:
    return x.astype("float32", copy=False) / _divisor(step)


def _divisor(step: Array) -> Array:
    """The step, or 1 where it is too small to divide by."""
    xp = array_module(step)
    return xp.where(xp.abs(step) >= xp.float32(SMALLEST_NORMAL), step, xp.float32(1))
