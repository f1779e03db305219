"""HQQ, half-quadratic quantization: better scales from the weights alone, without any text (Badri &
Shaji 2023).

Least squares is the wrong measure for rounding: a few large weights, which a smaller step would
clip, dominate the sum, so the step stays large. A norm with p < 1 nearly counts the errors, so that
clipping a few weights is cheap:

    minimize over the scales    sum |w - Q(w)|^p,   p = 0.7

This is not convex. It is split into two easy halves, where e takes the part of the residual that is
given up:

    minimize over e, scales     sum |e|^p + β/2 (w - Q(w) - e)²

    e      <-  shrink(w - Q(w))            shrink(r) = sign(r) max(0, |r| - |r|^(p-1) / β)
    scale  <-  sum c (w - e) / sum c²      least squares for the codes c, or for a grid with offset:
    offset <-  mean(w - e - c scale)

and then the weights are rounded again. Residuals are measured in steps of the grid, so that β means
the same for every group. β grows a little in every iteration, which gives up less and less. Each
group keeps the best scales it has seen, including the grid's own.
"""

from minimtp.backend import Array, array_module
from minimtp.errors import UserError
from minimtp.quant.grids import Grid
from minimtp.quant.grids.base import Scales, round_to_float16
from minimtp.quant.grids.scales import (
    choose_scales,
    group_total,
    has_step_and_minimum,
    per_weight,
    stretched,
)

POWER = 0.7
BETA, BETA_GROWTH = 10.0, 1.05
ITERATIONS = 20


def hqq(grid: Grid, weight: Array, name: str = "the array") -> tuple[Array, Scales]:
    """weight (N, K) -> codes and scales, as from `grid.encode`.

    Raises the errors of `encode`, and UserError for grids without a single step or offset; `name`
    is what errors call the weight.
    """
    xp, columns = array_module(weight), weight.shape[1]
    exact = weight.astype(xp.float64)
    codes, scales = grid.encode(weight, name)
    best = power_error(grid, exact, codes, scales)
    tried, rounded, beta = scales, codes, BETA
    for _ in range(ITERATIONS):
        residual = exact - grid.decode(rounded, tried)
        step = per_weight(grid, xp.abs(_parts(grid, tried)[0]).astype(xp.float64), columns)
        kept = exact - shrink(residual, step, beta)
        tried = _refitted(grid, kept, rounded, tried)
        rounded = grid.nearest(weight, tried)
        error = power_error(grid, exact, rounded, tried)
        better = error < best
        codes = xp.where(per_weight(grid, better, columns), rounded, codes)
        scales = choose_scales(better, tried, scales)
        best = xp.where(better, error, best)
        beta *= BETA_GROWTH
    return codes, scales


def power_error(grid: Grid, exact: Array, codes: Array, scales: Scales) -> Array:
    """Return the sum of |w - Q(w)|^p over each group, in the shape of the scales."""
    xp = array_module(exact)
    return group_total(grid, scales, xp.abs(exact - grid.decode(codes, scales)) ** POWER)


def shrink(residual: Array, step: Array, beta: float) -> Array:
    """Return the part of the residual that is given up, 0 for small ones. Steps may be 0 or
    negative.
    """
    xp = array_module(residual)
    unit = xp.where(step == 0, 1.0, xp.abs(step))
    size = xp.abs(residual) / unit
    left = size - xp.where(size > 0, size, 1.0) ** (POWER - 1) / beta
    return xp.sign(residual) * xp.maximum(left, 0.0) * unit


def _refitted(grid: Grid, target: Array, codes: Array, scales: Scales) -> Scales:
    """Return the scales that fit codes * step + offset best to the target: a new offset if the grid
    has one, else a step.
    """
    xp, columns = array_module(target), target.shape[1]
    step, offset = _parts(grid, scales)
    if offset is None:
        # The codes themselves, or the entries of a codebook.
        numbers = grid.decode(codes, xp.ones_like(step)).astype(xp.float64)
        squares = group_total(grid, scales, numbers * numbers)
        fitted = group_total(grid, scales, numbers * target) / xp.where(squares == 0, 1.0, squares)
        stored = stretched(grid, fitted.astype(xp.float32), xp.float32(1))
        return xp.where(squares == 0, step, stored)
    count = group_total(grid, scales, xp.ones_like(target))
    without_offset = codes * per_weight(grid, step, columns).astype(xp.float64)
    mean = group_total(grid, scales, target - without_offset) / count
    stored = round_to_float16(mean.astype(xp.float32))
    return type(scales)(step, xp.where(xp.isfinite(stored), stored, offset))


def _parts(grid: Grid, scales: Scales) -> tuple[Array, Array | None]:
    """Return (step, offset or None) of scales with the values codes * step + offset."""
    if not isinstance(scales, tuple):
        return scales, None
    if has_step_and_minimum(scales):
        return scales
    raise UserError(
        f"hqq fits a step or an offset, and {grid.name} has neither by itself: use method rtn, "
        "gptq or awq with it"
    )
