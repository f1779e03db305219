"""GPTQ: round a matrix column by column, and let the columns that are still to come make up for each error.

A product y = W x is judged by its outputs. With H = E[x xᵀ] over calibration text, rounding W to Q costs

    E |(Q - W) x|² = trace((Q - W) H (Q - W)ᵀ)

which is the same quadratic form for every row. Once column j is rounded with the error e_j = w_j - q_j, the best change of the
columns not rounded yet is known in closed form (optimal brain surgeon, Hassibi & Stork 1993): with U the upper Cholesky factor
of H⁻¹ = Uᵀ U,

    w_k  <-  w_k - e_j U_jk / U_jj     for every k > j                   (Frantar et al. 2022, arXiv 2210.17323, algorithm 1)

so inputs that fire together carry one another's errors. Columns of one group share a scale: it is chosen when its first column
is reached, from the columns as they are by then, errors of earlier groups included.

Choices:
* The updates of later blocks are delayed and made in one product a block. A block is a number of whole groups, so a group's
  scale never sees weights that still wait for an update: the result does not depend on the block's size.
* A weight that no error has reached keeps the code that the grid's own rule gave it. With H a multiple of the identity nothing
  is ever moved, and the result is round-to-nearest, bit for bit.
* H is damped by a hundredth of its mean diagonal. An input that never fired gets a diagonal of 1 and is rounded by itself; the
  reference sets its weights to zero, which no text outside the calibration forgives.
* All of it in float64: the matrices of this project are small.
* `largest_first` takes the columns in the order of falling H_jj, so that errors are made where many columns are left to make up
  for them. Groups stay those of the format; their scales then have to be chosen beforehand, from the weights as they were.
"""

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.registry import Grid
from minimtp.quant.grids.scales import put_group

DAMPING = 0.01
GROUPS_AT_ONCE = 4


def gptq(
    grid: Grid,
    weight: Array,
    second_moment: Array,
    name: str = "the array",
    *,
    beforehand: tuple[Array, Scales] | None = None,
    largest_first: bool = False,
    groups_at_once: int = GROUPS_AT_ONCE,
) -> tuple[Array, Scales]:
    """weight (N, K), second_moment E[x xᵀ] (K, K) -> codes and scales as `grid.encode` gives them.

    beforehand: codes and scales of the weight as it is, whose scales are kept; with `largest_first` the grid's own by default.

    Raises UserError, calling the matrix `name`, for what `encode` refuses and for moments that are not finite.
    """
    xp = array_module(weight)
    keep_scales = largest_first or beforehand is not None
    chosen, scales = beforehand or grid.encode(weight, name)
    codes, start = chosen.copy(), weight.astype(xp.float64)  # `chosen` are the codes of `start`
    columns = weight.shape[1]
    size = grid.group_size or columns
    order = xp.arange(columns)
    if largest_first:
        order = xp.argsort(-xp.diagonal(second_moment), kind="stable")
    factor = _inverse_factor(second_moment[order][:, order], name)  # (K, K), upper
    now = start[:, order]  # the columns as they are by now, in the order they are taken
    block = groups_at_once * size
    for first in range(0, columns, block):
        last = min(first + block, columns)
        errors = xp.zeros((weight.shape[0], last - first))
        for j in range(first, last):
            column = int(order[j])
            if not keep_scales and j % size == 0:
                group = slice(j, min(j + size, columns))
                start[:, group] = now[:, group]
                chosen[:, group], new = grid.encode(now[:, group], name)
                put_group(scales, j // size, new)
            nearest = grid.nearest(now[:, j : j + 1], scales, column)[:, 0]
            codes[:, column] = xp.where(now[:, j] == start[:, column], chosen[:, column], nearest)
            level = grid.decode(codes[:, column : column + 1], scales, column)[:, 0]
            errors[:, j - first] = (now[:, j] - level) / factor[j, j]
            now[:, j + 1 : last] -= errors[:, j - first, None] * factor[j, j + 1 : last]
        now[:, last:] -= errors @ factor[first:last, last:]
    return codes, scales


def output_error(difference: Array, second_moment: Array) -> float:
    """E |difference @ x|², summed over the rows of difference (N, K), for inputs with E[x xᵀ] = second_moment (K, K)."""
    precise = difference.astype("float64")
    return float(((precise @ second_moment) * precise).sum())


def _inverse_factor(second_moment: Array, name: str) -> Array:
    """The upper Cholesky factor U of the damped moment's inverse, H⁻¹ = Uᵀ U: (K, K) float64."""
    xp = array_module(second_moment)
    moment = to_numpy(second_moment).astype(
        np.float64
    )  # factored on the host: libraries for GPUs report a failure differently
    if not np.isfinite(moment).all():
        raise UserError(
            f"the inputs of {name} are not finite on the calibration text: the model is broken there"
        )
    diagonal = np.diagonal(moment).copy()
    dead = diagonal <= 0
    diagonal[dead] = 1.0
    index = np.arange(len(diagonal))
    damping = DAMPING * float(diagonal.mean())
    while (
        True
    ):  # rounding can leave a nearly singular moment with a negative eigenvalue: then it takes more
        moment[index, index] = diagonal + damping
        try:
            factor = np.linalg.cholesky(np.linalg.inv(moment)).T
        except np.linalg.LinAlgError:
            factor = None
        if factor is not None and np.isfinite(factor).all():
            return xp.asarray(factor)
        damping *= 10
