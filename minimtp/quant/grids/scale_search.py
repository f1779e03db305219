"""Search for the scales with the smallest weighted error: try several for each group, and keep the
best.

A grid's own rule takes a group's scale from its extreme, so that (almost) nothing is clipped. With
few levels that is wasteful: a slightly smaller step clips one weight but rounds all others more
finely. And not all weights matter equally: weights that are multiplied by large inputs change the
outputs most. So each group tries its own scale times a range of factors, and keeps the one that
minimizes

    sum_j importance_j (w_j - q_j)²             importance_j = E[x_j²] over calibration text, or 1

(llama.cpp calls E[x_j²] the importance matrix and searches the scales of its formats in this way.)
This is GPTQ's quadratic form without the entries off the diagonal. A factor is tried by rounding
factor * w, so the grid can always store the scales. The grid's own rule is tried first and kept
unless another factor is strictly better, so the error is never larger than with round-to-nearest.
Super-block formats (Q4_K, Q6_K), whose groups share the scale of their scales, have their own
search, which is also weighted by importance.
"""

from minimtp.backend import Array, array_module
from minimtp.quant.grids.base import Grid, Scales
from minimtp.quant.grids.scales import choose_scales, group_total, per_weight

FACTORS = tuple(0.4 + 0.02 * i for i in range(41))  # factors on the grid's own scale: 0.4 .. 1.2


def search_scales(
    grid: Grid, weight: Array, importance: Array | None = None, name: str = "the array"
) -> tuple[Array, Scales]:
    """weight (N, K) -> codes int8 (N, K) and scales, as from `grid.encode`.

    importance: (K,), or None if all columns count equally. Raises the errors of `encode`; `name` is
    what errors call the weight.
    """
    xp, columns = array_module(weight), weight.shape[1]
    codes, scales = grid.encode(weight, name)
    if has_superblocks(scales):
        return (codes, scales) if importance is None else grid.encode(weight, name, importance)
    weights = xp.ones(columns) if importance is None else importance.astype(xp.float64)
    best = group_errors(grid, weight, codes, scales, weights)  # (N, groups)
    largest = float(xp.abs(weight).max())
    for factor in FACTORS:
        if factor * largest > grid.max_magnitude:
            continue
        tried = grid.encode(weight * weight.dtype.type(factor), name)[1]
        rounded = grid.nearest(weight, tried)
        error = group_errors(grid, weight, rounded, tried, weights)
        better = error < best
        codes = xp.where(per_weight(grid, better, columns), rounded, codes)
        scales = choose_scales(better, tried, scales)
        best = xp.where(better, error, best)
    return codes, scales


def has_superblocks(scales: Scales) -> bool:
    """Return whether some scales belong to more weights than others."""
    return isinstance(scales, tuple) and len({array.shape for array in scales}) > 1


def group_errors(
    grid: Grid, weight: Array, codes: Array, scales: Scales, importance: Array
) -> Array:
    """Return the weighted squared error of each group, float64, in the shape of the scales."""
    difference = grid.decode(codes, scales).astype("float64") - weight  # (N, K)
    return group_total(grid, scales, difference * difference * importance)
