"""GPTQ: round a matrix column by column, and let the remaining columns compensate for each error.

The rounding of W in y = W x is judged by the outputs. With H = E[x xᵀ] over calibration text,
rounding W to Q has the error

    E |(Q - W) x|² = trace((Q - W) H (Q - W)ᵀ)

which is the same quadratic form for every row. After column j is rounded with the error e_j = w_j -
q_j, the best update of the remaining columns is known in closed form (optimal brain surgeon,
Hassibi & Stork 1993). With U the upper Cholesky factor of H⁻¹ = Uᵀ U:

    w_k  <-  w_k - e_j U_jk / U_jj     for every k > j

(Frantar et al. 2022, arXiv 2210.17323, algorithm 1).

So inputs that fire together compensate for one another's errors. The columns of a group share a
scale. It is chosen when the first column of the group is reached. At that point, the columns
already compensate for the errors of earlier groups.

Choices:
* The updates of later columns are delayed, and made with one matmul for each run of RUN columns,
  and for columns of later blocks with one matmul per block. A run never crosses a group's end, and
  a block is a number of whole groups, so a group's scale never sees weights that still wait for an
  update: the result does not depend on the sizes of runs and blocks.
* The matrix is transposed while it is rounded, because a column is then contiguous in memory.
* A weight that no error has reached keeps the code that the grid's own rule gave it. If H is a
  multiple of the identity, no weight is ever updated, and the result is round-to-nearest, bit for
  bit.
* H is damped by a hundredth of its mean diagonal. An input that never fired gets a diagonal of 1
  and is rounded independently. The reference sets its weights to zero, which harms any text in
  which the input does fire.
* Everything is float64: the matrices of this project are small.
* `largest_first` takes the columns in the order of decreasing H_jj, so that errors are made while
  many columns are left to compensate for them. The groups of the format do not change, so their
  scales have to be chosen beforehand, from the original weights.
"""

from collections.abc import Iterator

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import Grid
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.scales import put_group

DAMPING = 0.01
GROUPS_AT_ONCE = 4
RUN = 16  # columns


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
    """weight (N, K), second_moment E[x xᵀ] (K, K) -> codes and scales, as from `grid.encode`.

    beforehand: codes and scales of the original weight. The scales are kept. With `largest_first`,
    the default is `grid.encode(weight)`.
    largest_first: take the columns in the order of decreasing E[x_j²].
    name: the name of the weight in error messages.
    Raises the errors of `grid.encode`, and UserError if `second_moment` is not finite.
    """
    xp = array_module(weight)
    keep_scales = largest_first or beforehand is not None
    chosen, scales = beforehand or grid.encode(weight, name)
    codes, start = chosen.copy(), weight.astype(xp.float64)  # `chosen` holds the codes of `start`
    columns = weight.shape[1]
    size = grid.group_size or columns
    order = xp.arange(columns)
    if largest_first:
        order = xp.argsort(-xp.diagonal(second_moment), kind="stable")
    factor = _inverse_factor(second_moment[order][:, order], name)  # U (K, K), upper
    now = xp.ascontiguousarray(start.T[order])  # (K, N), the updated columns in rounding order
    block = groups_at_once * size
    for first in range(0, columns, block):
        last = min(first + block, columns)
        errors = xp.zeros((last - first, weight.shape[0]))
        for begin, end in _runs(first, last, size):
            for j in range(begin, end):
                column = int(order[j])
                if not keep_scales and j % size == 0:
                    group = slice(j, min(j + size, columns))
                    start[:, group] = now[group].T
                    chosen[:, group], new = grid.encode(now[group].T, name)
                    put_group(scales, j // size, new)
                nearest = grid.nearest(now[j][:, None], scales, column)[:, 0]
                code = xp.where(now[j] == start[:, column], chosen[:, column], nearest)
                codes[:, column] = code
                level = grid.decode(code[:, None], scales, column)[:, 0]
                errors[j - first] = (now[j] - level) / factor[j, j]
                now[j + 1 : end] -= factor[j, j + 1 : end, None] * errors[j - first]
            now[end:last] -= factor[begin:end, end:last].T @ errors[begin - first : end - first]
        now[last:] -= factor[first:last, last:].T @ errors
    return codes, scales


def _runs(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Split columns first..last-1 into runs (begin, end) of at most RUN, none across a group's end.

    `first` begins a group of `size` columns.
    """
    for group in range(first, last, size):
        end = min(group + size, last)
        for begin in range(group, end, RUN):
            yield begin, min(begin + RUN, end)


def output_error(difference: Array, second_moment: Array) -> float:
    """Return E |difference @ x|², summed over the rows of difference (N, K). second_moment: E[x xᵀ]
    (K, K).
    """
    precise = difference.astype("float64")
    return float(((precise @ second_moment) * precise).sum())


def _inverse_factor(second_moment: Array, name: str) -> Array:
    """Return U (K, K) float64, upper triangular, with H⁻¹ = Uᵀ U for the damped moment H."""
    xp = array_module(second_moment)
    # Factored on the host, because GPU libraries report a failure differently.
    moment = to_numpy(second_moment).astype(np.float64)
    if not np.isfinite(moment).all():
        raise UserError(
            f"the inputs of {name} are not finite on the calibration text: the model is broken "
            "there"
        )
    diagonal = np.diagonal(moment).copy()
    dead = diagonal <= 0
    diagonal[dead] = 1.0 if dead.all() else diagonal[~dead].mean()
    index = np.arange(len(diagonal))
    damping = DAMPING * float(diagonal.mean())
    while True:  # float errors can give a nearly singular moment a negative eigenvalue: damp more
        moment[index, index] = diagonal + damping
        try:
            factor = np.linalg.cholesky(np.linalg.inv(moment)).T
        except np.linalg.LinAlgError:
            factor = None
        if factor is not None and np.isfinite(factor).all():
            return xp.asarray(factor)
        damping *= 10
