"""Exercises of lesson 8. Fill in the bodies, then run:

pytest --mine tests/quant/qat/test_fake_quantize.py tests/quant/qat/test_learned.py
"""

from minimtp.backend import Array, array_module  # noqa: F401  (array_module returns numpy or cupy)
from minimtp.engine.tensor import Op
from minimtp.quant.grids.registry import MASKS, Grid


class FakeQuantize(Op):
    """w (N, K) -> the values its codes and scales stand for, (N, K), in w's dtype.

    grid: the grid; mask: the straight-through mask; name: what an error calls the weights.
    Forward raises UserError when a value is not finite or too large for the grid, or rows are not whole groups.
    """

    straight_through = True

    def __init__(self, grid: Grid, mask: str = "pass", name: str = "the weights") -> None:
        if mask not in MASKS:
            raise ValueError(f"unknown straight-through mask {mask!r}: use {', '.join(MASKS)}")
        self.grid, self.mask, self.name = grid, mask, name

    def forward(self, weight: Array) -> Array:
        raise NotImplementedError(
            "lesson 8: return the rounded weights, and store what backward will need"
        )

    def backward(self, gradient: Array) -> Array:
        raise NotImplementedError("lesson 8: return the gradient, multiplied by the mask")


class LearnedStep(Op):
    """LSQ: w and a step that broadcasts against it -> q(w), in w's shape. low, high: the outermost codes."""

    straight_through = True

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def forward(self, w: Array, step: Array) -> Array:
        raise NotImplementedError(
            "lesson 8: return scale * codes; store codes, levels and the number of weights per scale"
        )

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        raise NotImplementedError(
            "lesson 8: two gradients; for the scale: code - level inside, the code outside"
        )

    def _inside(self) -> Array:
        return (self.levels >= self.low) & (self.levels <= self.high)


class LearnedStepAndOffset(Op):
    """LSQ+: w, and a step and an offset that broadcast against it -> q(w), in w's shape."""

    straight_through = True

    def __init__(self, low: int, high: int) -> None:
        self.step = LearnedStep(low, high)

    def forward(self, w: Array, step: Array, offset: Array) -> Array:
        raise NotImplementedError(
            "lesson 8: subtract the offset, apply LSQ, and add the offset again"
        )

    def backward(self, gradient: Array) -> tuple[Array, Array, Array]:
        raise NotImplementedError(
            "lesson 8: three gradients; does the offset move a weight that is not clipped?"
        )
