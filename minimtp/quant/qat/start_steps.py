"""Training that starts from the codes and steps of a packed model.

A rounding method such as GPTQ (quant/ptq/) finds codes for which the errors of the weights
compensate for one another. The grid's own rule would choose other steps and codes for the same
weights, so training that starts from the weights loses what the method has found. Training that
starts from the method's result keeps it:

    master   the full-precision weight, moved to within REACH of a step of its packed value, and
             not beyond the outermost level
    step     the step in the file, times exp(t). t is learned, from 0 on

REACH is less than half a step, so at t = 0 the levels nearest to the masters are those of the
packed model: before the first update, the fake-quantized model is the packed one, bit for bit. Yet
the masters keep what is left of the full-precision weights: a weight that was rounded up starts
near the upper end of its interval, and falls to the next level with the first small updates. The
updates that follow the gradient need not cross a whole interval first.

A token table is kept as it is. If the grid's own rule would choose other codes than the packed
table has, the scales of the packed table are stored, too, and the table cannot be trained.

The steps are numbers of their own here. In learned.py they are the grid's own steps of the current
weights, times a factor, and so every change of a group's extreme changes its step. The start steps
are stored with the model, as parameters that are not trained. Branches, packing and exports
therefore compute with the same steps as training: the product rounded to the type of the file. The
gradients are those of LSQ, see learned.py.
"""

from collections.abc import Sequence

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Op
from minimtp.errors import UserError
from minimtp.quant import packing
from minimtp.quant.grids import Grid
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.scales import (
    has_step_and_minimum,
    is_code_times_step,
    per_weight,
    stretched,
)
from minimtp.quant.qat.learned import learned_gradients

REACH = 0.45  # of a step, from the packed value to the master


class FakeQuantizeFromStart(Op):
    """weight (N, K) and log_steps (groups,) -> the nearest levels of a grid whose groups have the
    steps start_steps * exp(log_steps), (N, K).

    grid: one that `require_single_step` accepts. start_steps: (groups,), signed. name: what an
    error calls the weights. scales: the steps of the forward pass, as in `FakeQuantizeLearned`.
    The forward raises UserError if a weight is not finite or too large for the grid.
    """

    straight_through = True
    scales: Array | None = None

    def __init__(self, grid: Grid, start_steps: Array, name: str = "the weights") -> None:
        self.grid, self.start_steps, self.name = grid, start_steps, name

    def forward(self, weight: Array, log_steps: Array) -> Array:
        self.weight = weight
        if self.scales is None:
            self.grid.check_in_training(weight, self.name)
            self.scales = current_steps(self.grid, weight.shape, self.start_steps, log_steps)
        self.value = self.grid.nearest_values(weight, self.scales)  # (N, K)
        return self.value

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        return learned_gradients(self.grid, self.scales, gradient, self.weight, self.value)


def require_single_step(grid: Grid, name: str) -> None:
    """Raise UserError unless every value of the grid is a code times the step of its group.

    name: the matrix that is to be rounded to the grid.
    """
    if not is_code_times_step(grid):
        raise UserError(
            f"{name} is on the grid {grid.name}, whose values are not a code times the step of "
            "their group: use q4_0, q8_0 or a uniform grid that is not affine with weight_scales "
            "learned-from-start"
        )


def current_steps(
    grid: Grid, shape: tuple[int, int], start_steps: Array, log_steps: Array
) -> Array:
    """Return the steps of a matrix of this shape (N, K) as the grid stores them, float32 in the
    shape of its scales.
    """
    start = start_steps.astype("float32", copy=False).reshape(grid.scales_shape(*shape))
    factors = array_module(log_steps).exp(log_steps).astype("float32", copy=False)
    return stretched(grid, start, factors.reshape(start.shape))


def encode_from_start(
    grid: Grid, weight: Array, start_steps: Array, log_steps: Array, name: str = "the weights"
) -> tuple[Array, Array]:
    """Return the codes int8 (N, K) and steps of `FakeQuantizeFromStart`, as a file stores them.
    Same arguments and errors.
    """
    grid.check_values(weight, name)
    steps = current_steps(grid, weight.shape, start_steps, log_steps)
    return grid.nearest(weight, steps), steps


def masters_and_steps(grid: Grid, weight: Array, packed: Array) -> tuple[Array, Array]:
    """Return where training starts from a packed matrix: the masters (N, K) in the dtype of
    `weight`, and the start steps (groups,) float32.

    weight: the full-precision weights (N, K). packed: their rounded form, uint8 (N, bytes per row).
    """
    xp = array_module(weight)
    codes, steps = packing.unpack(grid, packed)
    value = grid.decode(codes, steps)  # (N, K)
    step = per_weight(grid, steps, weight.shape[1])
    reach = xp.float32(REACH) * xp.abs(step)
    ends = grid.min_code * step, grid.max_code * step
    low = xp.maximum(value - reach, xp.minimum(*ends))
    high = xp.minimum(value + reach, xp.maximum(*ends))
    return xp.clip(weight, low, high).astype(weight.dtype, copy=False), steps.reshape(-1)


def scales_per_group(grid: Grid) -> int:
    """Return how many numbers a group of the grid stores: 1, the step, or 2, with the lowest level.
    0 for grids with other scales.
    """
    return len(_scale_arrays(_scales_like(grid)))


def table_scales(grid: Grid, packed: Array) -> list[Array]:
    """Return the scales of a packed table, uint8 (N, bytes per row), as `scales_per_group` arrays
    (groups,).
    """
    return [array.reshape(-1) for array in _scale_arrays(packing.unpack(grid, packed)[1])]


def encode_table(grid: Grid, values: Array, scales: Sequence[Array]) -> tuple[Array, Scales]:
    """Return the codes int8 (N, K) and scales of a table's values (N, K). The inverse of decoding.

    scales: the result of `table_scales`.
    """
    shape = grid.scales_shape(*values.shape)
    found = [array.astype("float32", copy=False).reshape(shape) for array in scales]
    like = _scales_like(grid)
    stored = type(like)(*found) if isinstance(like, tuple) else found[0]
    return grid.nearest(values, stored), stored


def _scales_like(grid: Grid) -> Scales:
    return grid.encode(np.zeros((1, 256), "float32"))[1]  # 256 columns: whole blocks


def _scale_arrays(scales: Scales) -> list[Array]:
    if isinstance(scales, tuple):
        return list(scales) if has_step_and_minimum(scales) else []
    return [scales]
