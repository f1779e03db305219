"""Scales chosen for what they cost: try several for each group, keep the one with the smallest weighted error.

A grid's own rule takes a group's scale from its extreme, so that nothing, or almost nothing, is clipped. With few levels that
is wasteful: a slightly smaller step moves one weight further and all others less. And not all weights count alike: those that
meet large inputs move the outputs most. So each group tries its own scale times a range of factors, and keeps what minimizes

    sum_j importance_j (w_j - q_j)²             importance_j = E[x_j²] over calibration text, or 1

(llama.cpp calls E[x_j²] the importance matrix and searches its own formats so.) It is GPTQ's quadratic form with everything off
the diagonal left out. A factor is tried by rounding factor * w: whatever a grid stores as scales, they are those it can
store. The grid's own rule is tried first and kept unless something is strictly better, so the error is never larger than that
of round-to-nearest. Formats whose groups share their scales' own scale in super-blocks (Q4_K, Q6_K) have a search of their own,
which weighs by importance too; it is left to them.
"""

from minimtp.backend import Array, array_module
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.registry import Grid
from minimtp.quant.grids.scales import choose_scales

FACTORS = tuple(0.4 + 0.02 * i for i in range(41))  # of the grid's own scale: 0.4 .. 1.2


def search_scales(
    grid: Grid, weight: Array, importance: Array | None = None, name: str = "the array"
) -> tuple[Array, Scales]:
    """weight (N, K), importance (K,) or None for equal -> codes and scales as `grid.encode` gives them.

    Raises UserError, calling the matrix `name`, for what `encode` refuses.
    """
    xp = array_module(weight)
    codes, scales = grid.encode(weight, name)
    if has_superblocks(scales):
        return (codes, scales) if importance is None else grid.encode(weight, name, importance)
    weights = xp.ones(weight.shape[1]) if importance is None else importance.astype(xp.float64)
    best = group_errors(grid, weight, codes, scales, weights)
    largest = float(xp.abs(weight).max())
    for factor in FACTORS:
        if factor * largest > grid.largest_magnitude:
            continue
        tried = grid.encode(weight * weight.dtype.type(factor), name)[1]
        rounded = grid.nearest(weight, tried)
        error = group_errors(grid, weight, rounded, tried, weights)
        better = error < best
        codes = xp.where(per_weight(grid, better, weight.shape[1]), rounded, codes)
        scales = choose_scales(better, tried, scales)
        best = xp.where(better, error, best)
    return codes, scales


def has_superblocks(scales: Scales) -> bool:
    """Whether some of the scales belong to more weights than others do."""
    return isinstance(scales, tuple) and len({array.shape for array in scales}) > 1


def group_errors(
    grid: Grid, weight: Array, codes: Array, scales: Scales, importance: Array
) -> Array:
    """The weighted squared error of each group: float64, in the shape of the scales."""
    difference = grid.decode(codes, scales).astype("float64") - weight
    return group_total(grid, scales, difference * difference * importance)


def group_total(grid: Grid, scales: Scales, values: Array) -> Array:
    """values (N, K) -> their sum over each group, in the shape of the scales; a row's last group may be shorter."""
    xp, columns = array_module(values), values.shape[1]
    size = grid.group_size or columns
    whole = columns // size * size
    sums = values[:, :whole].reshape(len(values), -1, size).sum(axis=-1)
    if whole < columns:
        sums = xp.concatenate([sums, values[:, whole:].sum(axis=1, keepdims=True)], axis=1)
    first = scales[0] if isinstance(scales, tuple) else scales
    return (
        sums if len(first) == len(sums) else sums.sum(axis=0, keepdims=True)
    )  # one scale for the whole matrix


def per_weight(grid: Grid, groups: Array, columns: int) -> Array:
    """One value per group -> one per weight, (N, K) or what broadcasts to it."""
    if grid.group_size is None:
        return groups
    return groups.repeat(grid.group_size, axis=1)[:, :columns]
