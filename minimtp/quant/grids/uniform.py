"""Uniform grids: equally spaced levels, 2 to 8 bits, one scale for a group, a row or the whole
matrix.

With b bits the codes run from q_min = -2**(b-1) to q_max = 2**(b-1) - 1. The rule that chooses the
scale s is called its policy. Grids with different policies are different grids: a model trained on
one and stored on another is quantized twice. With a = max|x| over the group, and m the first
element of that magnitude, with its sign:

    policy       scale s                          codes
    restricted   a / q_max                        -q_max..q_max   symmetric: Q(-x) = -Q(x)
    full-mid     a / ((q_max - q_min) / 2)        q_min..q_max    as torchao's SYMMETRIC
    ggml-signed  m / q_min, may be negative       q_min..q_max    the extreme is a level
    affine       (hi - lo) / (q_max - q_min)      q_min..q_max    zero is a level, with the code z

    code = clip(round(x / s) + z, q_min, q_max)   value = (code - z) * s

`restricted` leaves one code unused. With `full-mid`, both extremes lie half a step outside the
middle range of the codes. With `ggml-signed`, weights with the opposite sign of the extreme are
clipped from -q_min to q_max. Only `affine` has a zero point z = q_min - round(lo / s), with lo =
min(0, min x) and hi = max(0, max x). The others have z = 0.

Three details matter. Divide, and do not multiply by a reciprocal. Round first, then add z. Round
the scale to its stored type *before* choosing the codes, so that they are the nearest levels of the
stored grid. (ggml's own formats do neither the first nor the last: `kernels.ggml.blocks`.) A
float16 scale (11 significant bits) times a code of 8 bits is exact in float32.

Sources: Krishnamoorthi 2018 (arXiv 1806.08342, equations 2-8) for affine and symmetric; torchao's
`choose_qparams` for full-mid; ggml's `quantize_row_q4_0_ref` for the signed extreme.
"""

from dataclasses import dataclass
from typing import NamedTuple

from minimtp.backend import Array, array_module
from minimtp.errors import UserError
from minimtp.quant.grids.base import Scales, in_steps
from minimtp.quant.grids.groups import GroupedGrid, divisor, ranges, signed_extremes
from minimtp.quant.grids.rounding import Rounding, half_even

POLICIES = ("restricted", "full-mid", "ggml-signed", "affine")


class AffineScales(NamedTuple):
    """Step and zero point per group, float32 each. Zero points are whole numbers if the grid chose
    them.
    """

    step: Array
    zero: Array


@dataclass(frozen=True, repr=False)
class UniformGrid(GroupedGrid):
    """Equally spaced levels.

    bits: 2..8. policy: one of POLICIES. rounding: a function from `minimtp.quant.grids.rounding`.
    GroupedGrid describes the other settings. Scales are one array, or AffineScales if the policy is
    `affine`.
    Raises UserError for unknown settings.
    """

    bits: int
    policy: str
    granularity: str | int
    scale_type: str = "float16"
    rounding: Rounding = half_even

    def __post_init__(self) -> None:
        if self.bits not in range(2, 9):
            raise UserError(f"a uniform grid has 2 to 8 bits, not {self.bits!r}")
        if self.policy not in POLICIES:
            raise UserError(f"unknown scale policy {self.policy!r}: use {', '.join(POLICIES)}")
        super().__post_init__()

    @property
    def kind(self) -> str:
        return f"int{self.bits}-{self.policy}"

    @property
    def max_code(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def min_code(self) -> int:
        return -self.max_code if self.policy == "restricted" else -(2 ** (self.bits - 1))

    @property
    def steps_to_the_extreme(self) -> float:
        """The largest magnitude of a group in steps; for `affine`, half the distance from the
        lowest to the highest value.
        """
        return {"restricted": self.max_code, "ggml-signed": -self.min_code}.get(
            self.policy, self.max_code + 0.5
        )

    @property
    def bits_per_zero(self) -> int:
        return 8 if self.policy == "affine" else 0

    def decode(self, codes: Array, scales: Scales, first: int = 0) -> Array:
        step, zero = self._per_column(scales, first, codes.shape[1])
        return (codes.astype("float32") - zero) * step

    def nearest(self, x: Array, scales: Scales, first: int = 0) -> Array:
        xp = array_module(x)
        levels = self._levels(x, *self._per_column(scales, first, x.shape[1]))
        return xp.clip(levels, self.min_code, self.max_code).astype(xp.int8)

    def nearest_values(self, x: Array, scales: Scales) -> Array:
        if self.rounding is not half_even:
            return super().nearest_values(x, scales)
        return self._nearest_values(x, *(scales if self.policy == "affine" else (scales,)))

    def outermost_levels(self, scales: Scales) -> tuple[Array, Array]:
        step, zero = scales if self.policy == "affine" else (scales, 0)
        first, last = (array_module(step).float32(c) - zero for c in (self.min_code, self.max_code))
        return first * step, last * step

    def scales(self, x: Array) -> Scales:
        """Return the scales that `encode` chooses for a finite x (N, K)."""
        xp = array_module(x)
        x = x.astype(xp.float32, copy=False)
        zero = xp.float32(0)
        if self.policy != "affine":
            extreme = self._over_groups(x, signed_extremes)
            if self.policy == "ggml-signed":
                return self._stored(extreme / xp.float32(self.min_code))
            return self._stored(xp.abs(extreme) / xp.float32(self.steps_to_the_extreme))
        ends = self._over_groups(x, ranges)  # (N, groups, 2)
        low, high = xp.minimum(ends[..., 0], zero), xp.maximum(ends[..., 1], zero)
        step = self._stored((high - low) / xp.float32(self.max_code - self.min_code))
        offset = self.min_code - self.rounding(low / divisor(step))
        return AffineScales(step, xp.clip(offset, self.min_code, self.max_code))

    def _inside(self, x: Array, mask: str) -> Array:
        step, zero = self._per_column(self.scales(x), 0, x.shape[1])
        levels = self._levels(x, step, zero) if mask == "round-clip" else _in_steps(x, step) + zero
        return (levels >= self.min_code) & (levels <= self.max_code)

    def _levels(self, x: Array, step: Array, zero: Array) -> Array:
        """Return the codes before clipping, float32."""
        return self.rounding(_in_steps(x, step)) + zero

    def _per_column(self, scales: Scales, first: int, columns: int) -> tuple[Array, Array]:
        """Return step and zero point. Each broadcasts against (N, columns)."""
        if self.policy != "affine":
            return self._spread(scales, first, columns), array_module(scales).float32(0)
        return self._spread(scales.step, first, columns), self._spread(scales.zero, first, columns)


def _in_steps(x: Array, step: Array) -> Array:
    return in_steps(x.astype("float32", copy=False), divisor(step))
