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
"""

from minimtp.backend import array_module
from minimtp.engine.tensor import Array, Op
from minimtp.quant.grids import Grid
from minimtp.quant.grids_base import Scales
from minimtp.quant.importance import group_total, search_scales
from minimtp.quant.scales import step_of, stretched


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


class LearnedBound(Op):
    """PACT: activations x and a positive bound that broadcasts against them -> multiples of bound / levels, 0 to the bound."""

    straight_through = True

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def forward(self, x: Array, bound: Array) -> Array:
        xp = array_module(x)
        self.above = x >= bound
        self.between = (x >= 0) & ~self.above
        step = bound / self.levels
        return xp.rint(xp.clip(x, 0, bound) / step) * step

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        return gradient * self.between, gradient * self.above


class FakeQuantizeLearned(Op):
    """Weights (N, K) and the logarithms t, one per group, flat -> the weights on the grid with its steps times exp(t).

    name: what an error calls the weights. Raises UserError for what the grid refuses and for grids without a single step.
    """

    straight_through = True

    def __init__(self, grid: Grid, name: str = "the weights") -> None:
        self.grid, self.name = grid, name

    def forward(self, weight: Array, logarithms: Array) -> Array:
        self.weight = weight
        self.codes, self.scales = encode_learned(self.grid, weight, logarithms, self.name)
        return self.grid.decode(self.codes, self.scales).astype(weight.dtype, copy=False)

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        grid = self.grid
        value = grid.decode(self.codes, self.scales)
        inside = within_levels(grid, self.weight, self.codes, self.scales)
        moved = gradient * (value - inside * self.weight)
        return gradient * inside, group_total(grid, self.scales, moved).reshape(-1).astype(gradient.dtype, copy=False)


def encode_learned(grid: Grid, weight: Array, logarithms: Array, name: str = "the weights") -> tuple[Array, Scales]:
    """The codes and scales of `FakeQuantizeLearned`: what a file stores. Its arguments and errors."""
    codes, scales = grid.encode(weight, name)
    if not logarithms.any():
        return codes, scales  # the grid's own rule, bit for bit
    factors = array_module(weight).exp(logarithms).astype("float32").reshape(step_of(grid, scales).shape)
    scales = stretched(grid, scales, factors)
    return grid.nearest(weight, scales), scales


def within_levels(grid: Grid, weight: Array, codes: Array, scales: Scales) -> Array:
    """Which weights lie between the lowest and the highest level of their group, both included: booleans (N, K)."""
    xp = array_module(weight)
    ends = [grid.decode(xp.full_like(codes, code), scales) for code in (grid.smallest_code, grid.largest_code)]
    exact = weight.astype(xp.float32, copy=False)
    return (exact >= xp.minimum(*ends)) & (exact <= xp.maximum(*ends))


def first_logarithms(grid: Grid, weight: Array, name: str = "the weights") -> Array:
    """Where learning begins: the logarithms of the factors whose steps have the least squared error, flat float32."""
    xp = array_module(weight)
    own = step_of(grid, grid.encode(weight, name)[1])
    found = step_of(grid, search_scales(grid, weight, name=name)[1])
    usable = (own != 0) & (found != 0)
    ratio = xp.where(usable, found, 1) / xp.where(usable, own, 1)
    return xp.log(ratio).reshape(-1).astype(xp.float32)


