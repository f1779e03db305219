"""Grids that training adjusts: the step, the offset, the bound of a quantizer as parameters with gradients of their own.

Rounding to the levels of a step s, v = w / s,

    q(w) = s clip(round(v), low, high)

has a derivative in s as little as in w: it is a staircase times s. LSQ (Esser et al. 2020, arXiv 1902.08153) freezes the
rounding error c = round(v) - v and differentiates what is left, the surrogate s (v + c) = w + s c inside the range, s low or
s high outside:

    dq/ds = round(v) - v       low <= v <= high            dq/dw = 1 inside, 0 outside
          = low or high        outside

so a step shrinks while weights lie between levels, and grows when many are clipped. The true derivative of the staircase is
round(v) inside, which knows nothing of where w lies; a test that compares LSQ with differences of the staircase is wrong.

    LSQ+ (Bhalgat et al. 2020, arXiv 2004.09576)   q = s clip(round((w - b) / s), low, high) + b      dq/db = 1 where clipped
    PACT (Choi et al. 2018, arXiv 1805.06085)      q = s round(clip(x, 0, a) / s), s = a / levels     dq/da = 1 where x >= a

Gradients of what many elements share are scaled by 1 / sqrt(elements * high), LSQ's recipe for plain SGD; under Adam, which
divides by the gradient's own size, the factor cancels.

**In training** (`FakeQuantizeLearned`) a group's step is the grid's own times exp(t), with t learned. t = 0 is the grid itself,
a step cannot become negative or vanish, one learning rate suits all sizes, and codes and scales are those the grid stores:
nothing changes for files and kernels. With d(t) = s for s = s_0 exp(t), LSQ's derivative becomes q - w inside and q outside.
There are three ways of learning, by how the recipe calls them:

    learned            LSQ
    learned-offset     LSQ+, where a group stores its lowest level m too: m moves by an offset, counted in the grid's own steps;
                       dq/dt = q - w inside, q - m outside
    learned-bound      PACT's rule for the weights' bound on both sides: dq/dt = q outside and 0 inside, so that only what is
                       clipped moves a step

Their papers learn offsets and bounds of activations. Here activations follow the extremes of each group or token, and nothing
of them is clipped.
"""

from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Op
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.registry import Grid
from minimtp.quant.grids.scales import (
    step_and_minimum_of,
    step_of,
    stretched,
    stretched_and_shifted,
)
from minimtp.quant.ptq.importance import group_total, per_weight, search_scales


class LearnedStep(Op):
    """LSQ: w and a step that broadcasts against it -> q(w), in w's shape. low, high: the outermost codes."""

    straight_through = True

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def forward(self, w: Array, step: Array) -> Array:
        xp = array_module(w)
        self.levels, self.shared = w / step, w.size // step.size
        self.codes = xp.clip(xp.rint(self.levels), self.low, self.high)
        return step * self.codes

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        inside = self._inside()
        scale = (self.shared * self.high) ** -0.5
        return gradient * inside, gradient * (self.codes - inside * self.levels) * scale

    def _inside(self) -> Array:
        return (self.levels >= self.low) & (self.levels <= self.high)


class LearnedStepAndOffset(Op):
    """LSQ+: w, and a step and an offset that broadcast against it -> q(w), in w's shape."""

    straight_through = True

    def __init__(self, low: int, high: int) -> None:
        self.step = LearnedStep(low, high)

    def forward(self, w: Array, step: Array, offset: Array) -> Array:
        return self.step.forward(w - offset, step) + offset

    def backward(self, gradient: Array) -> tuple[Array, Array, Array]:
        dw, dstep = self.step.backward(gradient)
        scale = (self.step.shared * self.step.high) ** -0.5
        return dw, dstep, (gradient - dw) * scale


class FakeQuantizeLearned(Op):
    """Weights (N, K) and the logarithms t, one per group, flat -> the weights on the grid with its steps times exp(t).

    A third input, offsets, flat as well, moves the groups' levels by so many of the grid's own steps. bound: let only what is
    clipped move the steps. name: what an error calls the weights.
    Raises UserError for what the grid refuses, for grids without a single step and, with offsets, for those that store none.
    """

    straight_through = True

    def __init__(self, grid: Grid, name: str = "the weights", bound: bool = False) -> None:
        self.grid, self.name, self.bound = grid, name, bound

    def forward(self, weight: Array, logarithms: Array, offsets: Array | None = None) -> Array:
        self.weight, self.has_offsets = weight, offsets is not None
        self.codes, self.scales = encode_learned(self.grid, weight, logarithms, self.name, offsets)
        return self.grid.decode(self.codes, self.scales).astype(weight.dtype, copy=False)

    def backward(self, gradient: Array) -> tuple[Array, ...]:
        grid, scales, xp = self.grid, self.scales, array_module(gradient)
        value = grid.decode(self.codes, scales)
        inside = within_levels(grid, self.weight, self.codes, scales)
        lowest = (
            per_weight(grid, scales.minimum, value.shape[1])
            if self.has_offsets
            else value.dtype.type(0)
        )
        moved = value - xp.where(inside, value if self.bound else self.weight, lowest)
        gradients = [gradient * inside, self._by_group(gradient * moved)]
        if self.has_offsets:
            own = grid.encode(self.weight, self.name)[1].step
            gradients.append(self._by_group(gradient * ~inside) * own.reshape(-1))
        return tuple(gradients)

    def _by_group(self, values: Array) -> Array:
        return (
            group_total(self.grid, self.scales, values).reshape(-1).astype(values.dtype, copy=False)
        )


def encode_learned(
    grid: Grid,
    weight: Array,
    logarithms: Array,
    name: str = "the weights",
    offsets: Array | None = None,
) -> tuple[Array, Scales]:
    """The codes and scales of `FakeQuantizeLearned`: what a file stores. Its arguments and errors."""
    codes, scales = grid.encode(weight, name)
    step = step_of(grid, scales) if offsets is None else step_and_minimum_of(grid, scales)[0]
    if not logarithms.any() and (offsets is None or not offsets.any()):
        return codes, scales  # the grid's own rule, bit for bit
    factors = array_module(weight).exp(logarithms).astype("float32").reshape(step.shape)
    if offsets is None:
        scales = stretched(grid, scales, factors)
    else:
        scales = stretched_and_shifted(
            grid, scales, factors, offsets.astype("float32").reshape(step.shape)
        )
    return grid.nearest(weight, scales), scales


def within_levels(grid: Grid, weight: Array, codes: Array, scales: Scales) -> Array:
    """Which weights lie between the lowest and the highest level of their group, both included: booleans (N, K)."""
    xp = array_module(weight)
    ends = [
        grid.decode(xp.full_like(codes, code), scales)
        for code in (grid.smallest_code, grid.largest_code)
    ]
    exact = weight.astype(xp.float32, copy=False)
    return (exact >= xp.minimum(*ends)) & (exact <= xp.maximum(*ends))


def first_logarithms(grid: Grid, weight: Array, name: str = "the weights") -> Array:
    """Where learning begins: the logarithms of the factors whose steps have the least squared error, flat float32."""
    own, found = (step_of(grid, scales) for scales in _own_and_found(grid, weight, name))
    return _logarithms(own, found)


def first_logarithms_and_offsets(
    grid: Grid, weight: Array, name: str = "the weights"
) -> tuple[Array, Array]:
    """The same where offsets are learned too: logarithms and offsets, each flat float32."""
    scales = _own_and_found(grid, weight, name)
    (own, own_minimum), (found, found_minimum) = (
        step_and_minimum_of(grid, each) for each in scales
    )
    xp = array_module(weight)
    offsets = (found_minimum - own_minimum) / xp.where(own == 0, xp.float32(1), own)
    return _logarithms(own, found), xp.where(own == 0, xp.float32(0), offsets).reshape(-1)


def _own_and_found(grid: Grid, weight: Array, name: str) -> tuple[Scales, Scales]:
    return grid.encode(weight, name)[1], search_scales(grid, weight, name=name)[1]


def _logarithms(own: Array, found: Array) -> Array:
    xp = array_module(own)
    usable = (own != 0) & (found != 0)
    ratio = xp.where(usable, found, 1) / xp.where(usable, own, 1)
    return xp.log(ratio).reshape(-1).astype(xp.float32)
