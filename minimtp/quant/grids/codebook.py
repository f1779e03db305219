"""Codebook grids, whose levels are not equally spaced or are only three: NF4 and ternary weights.

    nf4      value = level[code] * s  s = max|x|   16 levels from -1 to 1, code 0..15
    ternary  value = code * s         s = mean|x|  code -1, 0, 1: round(x / s), clipped

NF4's levels are quantiles, so that normally distributed weights use each of them about equally
often. Zero is one of them, and so are both ends (QLoRA, Dettmers et al. 2023, arXiv 2305.14314,
section 3 and appendix E). There are eight positive levels and seven negative ones, so Q(-x) is not
-Q(x). A weight half way between two levels takes the lower one.

Ternary weights take their scale from the mean, not from the extreme (BitNet b1.58, Ma et al. 2024,
arXiv 2402.17764, section 2). With three levels, a scale that reaches the extreme would round nearly
everything to zero. Weights larger than a step and a half are clipped. Rounding twice differs from
rounding once, because zeros lower the second mean. Nothing is divided by a scale of 0. BitNet adds
an epsilon to every scale instead, which would round small layers to zero.
"""

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import ClassVar

from minimtp.backend import Array, array_module
from minimtp.quant.grids.base import in_steps
from minimtp.quant.grids.groups import GroupedGrid, divisor, signed_extremes
from minimtp.quant.grids.rounding import half_even

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@cache
def _nf4_levels(xp: ModuleType) -> Array:
    """Return the levels (16,) float32. Cached, because nothing may be sent to a GPU while a CUDA
    graph is recorded.
    """
    return xp.asarray(NF4_LEVELS, dtype="float32")


@dataclass(frozen=True, repr=False)
class NF4Grid(GroupedGrid):
    """Sixteen quantiles of a normal distribution. Settings as for GroupedGrid."""

    granularity: str | int
    scale_type: str = "float16"
    kind: ClassVar[str] = "nf4"
    bits: ClassVar[int] = 4
    min_code: ClassVar[int] = 0
    max_code: ClassVar[int] = 15
    steps_to_the_extreme: ClassVar[float] = 1.0

    def scales(self, x: Array) -> Array:
        extreme = self._over_groups(x.astype("float32", copy=False), signed_extremes)
        return self._stored(array_module(x).abs(extreme))

    def decode(self, codes: Array, scales: Array, first: int = 0) -> Array:
        return _nf4_levels(array_module(codes))[codes] * self._spread(scales, first, codes.shape[1])

    def nearest(self, x: Array, scales: Array, first: int = 0) -> Array:
        xp = array_module(x)
        levels = _nf4_levels(xp)
        between = (levels[1:] + levels[:-1]) / xp.float32(2)
        steps = divisor(self._spread(scales, first, x.shape[1]))
        relative = in_steps(x.astype("float32", copy=False), steps)
        return xp.searchsorted(between, relative).astype("int8")

    def outermost_levels(self, scales: Array) -> tuple[Array, Array]:
        return -scales, scales

    def _inside(self, x: Array, mask: str) -> None:
        return None  # both ends of a group are levels


@dataclass(frozen=True, repr=False)
class TernaryGrid(GroupedGrid):
    """-1, 0 and 1 times the mean magnitude. Settings as for GroupedGrid."""

    granularity: str | int
    scale_type: str = "float16"
    kind: ClassVar[str] = "ternary"
    bits: ClassVar[int] = 2
    min_code: ClassVar[int] = -1
    max_code: ClassVar[int] = 1
    steps_to_the_extreme: ClassVar[float] = 1.0  # of a group with one element

    def scales(self, x: Array) -> Array:
        xp = array_module(x)
        x = x.astype(xp.float32, copy=False)
        return self._stored(
            self._over_groups(x, lambda group: xp.abs(group).mean(axis=-1, dtype="float64"))
        )

    def decode(self, codes: Array, scales: Array, first: int = 0) -> Array:
        return codes.astype("float32") * self._spread(scales, first, codes.shape[1])

    def nearest(self, x: Array, scales: Array, first: int = 0) -> Array:
        steps = half_even(self._in_steps(x, scales, first))
        return array_module(x).clip(steps, -1, 1).astype("int8")

    def nearest_values(self, x: Array, scales: Array) -> Array:
        return self._nearest_values(x, scales)

    def outermost_levels(self, scales: Array) -> tuple[Array, Array]:
        return -scales, scales

    def _in_steps(self, x: Array, scales: Array, first: int = 0) -> Array:
        steps = divisor(self._spread(scales, first, x.shape[1]))
        return in_steps(x.astype("float32", copy=False), steps)

    def _inside(self, x: Array, mask: str) -> Array:
        levels = self._in_steps(x, self.scales(x))
        return array_module(x).abs(half_even(levels) if mask == "round-clip" else levels) <= 1
