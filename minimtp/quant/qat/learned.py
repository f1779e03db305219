"""Learned grids: the step, the offset or the bound of a quantizer as a parameter with a gradient of
its own.

Rounding to the levels of a step s, with v = w / s,

    q(w) = s clip(round(v), low, high)

has no useful derivatives. The derivative in w is 0 almost everywhere, and q is a staircase times s.
LSQ, learned step size quantization (Esser et al. 2020, arXiv 1902.08153), freezes the rounding
error c = round(v) - v and differentiates the surrogate that is left: s (v + c) = w + s c inside the
range, s low or s high outside. So

    dq/ds = round(v) - v       low <= v <= high            dq/dw = 1 inside, 0 outside
          = low or high        outside

A step shrinks while weights lie between levels, and grows if many are clipped. The true derivative
of the staircase inside is round(v), which does not depend on where w lies. A test that compares LSQ
with differences of the staircase is wrong.

    LSQ+  q = s clip(round((w - b) / s), low, high) + b         dq/db = 1 where clipped
    PACT  q = s round(clip(x, 0, a) / s), s = a / levels        dq/da = 1 where x >= a

(Bhalgat et al. 2020, arXiv 2004.09576; Choi et al. 2018, arXiv 1805.06085).

Here a group's step is the grid's own step times exp(t), and t is learned. t = 0 is the grid itself.
A step cannot become negative or vanish, and one learning rate suits all sizes. The grid stores
codes and scales as before, so files and kernels do not change. With s = s_0 exp(t), dq/dt = s
dq/ds: LSQ's derivative becomes q - w inside and q outside. LSQ also scales gradients by 1 /
sqrt(elements * high), a recipe for plain SGD. Adam divides by the gradient's own size, so the
factor cancels and is left out.

A recipe chooses one of three ways of learning:

    learned         LSQ
    learned-offset  LSQ+, for grids that also store the lowest level m of a group. m moves by an
                    offset, counted in the grid's own steps. dq/dt = q - w inside, q - m outside
    learned-bound   PACT's rule for a bound of the weights on both sides. dq/dt = q outside and 0
                    inside, so that only clipped weights move a step

Their papers learn offsets and bounds of activations. Here activations follow the extremes of each
group or token, so nothing of them is clipped.
"""

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Op
from minimtp.quant.grids import Grid
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.grids.scales import (
    group_total,
    step_and_minimum_of,
    step_of,
    stretched,
    stretched_and_shifted,
)


class FakeQuantizeLearned(Op):
    """weight (N, K), log_steps (groups,) and perhaps offsets (groups,) -> the weights on the grid
    with learned steps, (N, K).

    log_steps: t, the logarithm of the factor on each group's own step. offsets: how far the levels
    of each group are moved, in the grid's own steps. bound: let only clipped weights move the
    steps. name: what an error calls the weights.
    scales: of the forward pass. Set before it to those of an operation with the same inputs, they
    are not computed again, and the weights not checked.
    Raises UserError if the grid rejects the weights, has no single step per group or, with offsets,
    stores no lowest level.
    """

    straight_through = True
    scales: Scales | None = None

    def __init__(self, grid: Grid, name: str = "the weights", bound: bool = False) -> None:
        self.grid, self.name, self.bound = grid, name, bound

    def forward(self, weight: Array, log_steps: Array, offsets: Array | None = None) -> Array:
        self.weight, self.has_offsets = weight, offsets is not None
        if self.scales is None:
            self.grid.check_in_training(weight, self.name)
            self.scales = learned_scales(self.grid, weight, log_steps, offsets)
        if follows_own_rule(log_steps, offsets):
            self.value = self.grid.fake_quantize(weight, self.name)  # (N, K)
        else:
            self.value = self.grid.nearest_values(weight, self.scales)
        return self.value

    def backward(self, gradient: Array) -> tuple[Array, ...]:
        gradients = self.weight_and_step_gradients(gradient, self.value)
        if self.has_offsets:
            return *gradients, self.offset_gradient(gradient - gradients[0])
        return gradients

    def weight_and_step_gradients(self, gradient: Array, value: Array) -> tuple[Array, Array]:
        """Return the gradient of the weights (N, K), 0 where they are clipped, and that of the log
        steps (groups,).

        gradient: that of the levels. value: q. Both are (N, K).
        """
        minima = self.scales.minimum if self.has_offsets else None
        arrays = gradient, self.weight, value
        return learned_gradients(self.grid, self.scales, *arrays, minima, self.bound)

    def offset_gradient(self, clipped: Array) -> Array:
        """Return the gradient of the offsets (groups,). An offset moves only clipped weights.

        clipped: the gradient of their levels, 0 at the other weights, (N, K).
        """
        own_step = self.grid.scales(self.weight).step
        return self.total_per_group(clipped) * own_step.reshape(-1)

    def total_per_group(self, values: Array) -> Array:
        """values (N, K) -> their sum over each group, (groups,)."""
        total = group_total(self.grid, self.scales, values).reshape(-1)
        return total.astype(values.dtype, copy=False)


def encode_learned(
    grid: Grid,
    weight: Array,
    log_steps: Array,
    offsets: Array | None = None,
    name: str = "the weights",
) -> tuple[Array, Scales]:
    """Return the codes int8 (N, K) and scales of `FakeQuantizeLearned`, as a file stores them. Same
    arguments and errors.
    """
    codes, own = grid.encode(weight, name)
    scales = learned_scales(grid, weight, log_steps, offsets)
    if follows_own_rule(log_steps, offsets):
        return codes, own
    return grid.nearest(weight, scales), scales


def follows_own_rule(log_steps: Array, offsets: Array | None = None) -> bool:
    """Return whether the matrix is rounded by the grid's own rule, bit for bit, because nothing was
    learned yet.
    """
    return not log_steps.any() and (offsets is None or not offsets.any())


def learned_scales(
    grid: Grid, weight: Array, log_steps: Array, offsets: Array | None = None
) -> Scales:
    """Return the learned scales of a finite weight (N, K), rounded to their stored type.

    Raises UserError if the grid has no single step per group or, with offsets, stores no lowest
    level.
    """
    own = grid.scales(weight)
    step = step_of(grid, own) if offsets is None else step_and_minimum_of(grid, own)[0]
    factors = array_module(weight).exp(log_steps).astype("float32", copy=False).reshape(step.shape)
    if offsets is None:
        return stretched(grid, own, factors)
    shifts = offsets.astype("float32", copy=False).reshape(step.shape)
    return stretched_and_shifted(grid, own, factors, shifts)


def learned_gradients(
    grid: Grid,
    scales: Scales,
    gradient: Array,
    weight: Array,
    value: Array,
    minima: Array | None = None,
    bound: bool = False,
) -> tuple[Array, Array]:
    """Return the gradient of the weights (N, K), 0 where they are clipped, and that of the log
    steps (groups,): the sum over each group of

        gradient * (value - weight)     between the lowest and the highest level, inclusive; 0 with
                                        `bound`
        gradient * (value - minimum)    outside

    gradient: that of the levels `value`, (N, K) like the weights. minima: (N, groups); None: 0.
    """
    ends = grid.outermost_levels(scales)
    # A matrix with a single step is a single row.
    rows = [array.reshape(len(ends[0]), -1) for array in (gradient, weight, value)]
    size = grid.group_size or rows[0].shape[1]
    kernel = kernels.for_array(gradient)
    found, totals = kernel.learned_step_gradients(*rows, *ends, size, minima, bound)
    return found.reshape(weight.shape), totals.reshape(-1)


def first_log_steps(grid: Grid, weight: Array, name: str = "the weights") -> Array:
    """Return where learning starts, float32 (groups,): the factors with the smallest squared error,
    as logarithms.
    """
    own, found = _own_and_searched_scales(grid, weight, name)
    return _log_ratio(step_of(grid, own), step_of(grid, found))


def first_log_steps_and_offsets(
    grid: Grid, weight: Array, name: str = "the weights"
) -> tuple[Array, Array]:
    """Like `first_log_steps`, if offsets are learned as well: log steps and offsets, each float32
    (groups,).
    """
    own, found = _own_and_searched_scales(grid, weight, name)
    own_step, own_minimum = step_and_minimum_of(grid, own)
    found_step, found_minimum = step_and_minimum_of(grid, found)
    xp = array_module(weight)
    empty = own_step == 0
    offsets = (found_minimum - own_minimum) / xp.where(empty, xp.float32(1), own_step)
    return _log_ratio(own_step, found_step), xp.where(empty, xp.float32(0), offsets).reshape(-1)


def _own_and_searched_scales(grid: Grid, weight: Array, name: str) -> tuple[Scales, Scales]:
    return grid.encode(weight, name)[1], search_scales(grid, weight, name=name)[1]


def _log_ratio(own: Array, found: Array) -> Array:
    """log(found / own), float32 (groups,); 0 if a step is 0 or the two have different signs.

    The sign of a step can be that of the largest weight. If the two largest weights of a group are
    neighbouring floats of different signs, the search may round them to the same size and choose
    the other sign, which no factor reaches.
    """
    xp = array_module(own)
    usable = own * found > 0
    ratio = xp.where(usable, found, 1) / xp.where(usable, own, 1)
    return xp.log(ratio).reshape(-1).astype(xp.float32)
