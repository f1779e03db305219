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

Sources: Krishnamoorthi 2018 (arXiv 1806.08342, equations 2-8) for affine and symmetric, torchao's `choose_qparams` for
full-mid, ggml's `quantize_row_q4_0_ref` for the signed extreme.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from minimtp.backend import Array, array_module
from minimtp.errors import UserError
from minimtp.quant.grids.groups import GroupedGrid, divisor, signed_extreme
from minimtp.quant.grids.rounding import Rounding, half_even

POLICIES = ("restricted", "full-mid", "ggml-signed", "affine")


class AffineScales(NamedTuple):
    """step float32 and zero point float32 (whole numbers when the grid chose them), each one per group."""

    step: Array
    zero: Array


@dataclass(frozen=True, repr=False)
class UniformGrid(GroupedGrid):
    """Equally spaced levels.

    bits: 2..8; policy: one of POLICIES; rounding: a function from `minimtp.quant.grids.rounding`; the rest as for GroupedGrid.
    Scales are one array, or AffineScales where the policy is `affine`.
    Raises UserError for settings that do not exist.
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
    def largest_code(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def smallest_code(self) -> int:
        return -self.largest_code if self.policy == "restricted" else -(2 ** (self.bits - 1))

    @property
    def steps_to_the_extreme(self) -> float:
        """The largest magnitude of a group, in steps; for `affine` half the distance between lowest and highest value."""
        return {"restricted": self.largest_code, "ggml-signed": -self.smallest_code}.get(
            self.policy, self.largest_code + 0.5
        )

    @property
    def bits_per_zero(self) -> int:
        return 8 if self.policy == "affine" else 0

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
            extreme = self._over_groups(x, signed_extreme)
            if self.policy == "ggml-signed":
                return self._stored(extreme / xp.float32(self.smallest_code))
            return self._stored(xp.abs(extreme) / xp.float32(self.steps_to_the_extreme))
        low = xp.minimum(self._over_groups(x, lambda group: group.min(axis=-1)), zero)
        high = xp.maximum(self._over_groups(x, lambda group: group.max(axis=-1)), zero)
        step = self._stored((high - low) / xp.float32(self.largest_code - self.smallest_code))
        offset = self.smallest_code - self.rounding(low / divisor(step))
        return AffineScales(step, xp.clip(offset, self.smallest_code, self.largest_code))

    def _inside(self, x: Array, mask: str) -> Array:
        step, zero = self._per_column(self.scales(x), 0, x.shape[1])
        levels = self._levels(x, step, zero) if mask == "round-clip" else _in_steps(x, step) + zero
        return (levels >= self.smallest_code) & (levels <= self.largest_code)

    def _levels(self, x: Array, step: Array, zero: Array) -> Array:
        """The codes before clipping, float32."""
        return self.rounding(_in_steps(x, step)) + zero

    def _per_column(self, scales: Any, first: int, columns: int) -> tuple[Array, Any]:
        """Step and zero point, each broadcasting against (N, columns)."""
        if self.policy != "affine":
            return self._spread(scales, first, columns), array_module(scales).float32(0)
        return self._spread(scales.step, first, columns), self._spread(scales.zero, first, columns)


def _in_steps(x: Array, step: Array) -> Array:
    return x.astype("float32", copy=False) / divisor(step)
