"""Exercises of lesson 8. Fill in the bodies, then run:

pytest --mine tests/quant/qat/test_fake_quantize.py tests/quant/qat/test_learned_gradients.py
"""

from minimtp.backend import Array, array_module  # noqa: F401  (array_module returns numpy or cupy)
from minimtp.backend import numpy as np  # noqa: F401  (for your functions)
from minimtp.engine.tensor import Op
from minimtp.quant.grids import MASKS, Grid
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.scales import group_total, per_weight  # noqa: F401  (per_weight spreads levels)
from minimtp.quant.qat.learned import follows_own_rule, learned_scales


class FakeQuantize(Op):
    """w (N, K) -> the values of its codes and scales, (N, K), in w's dtype.

    mask: the straight-through mask. name: what an error calls the weights. The forward raises
    UserError if a value is not finite or too large for the grid, or if rows are not whole groups.
    """

    straight_through = True
    scales = None  # rounding computes them anyway, so they are not kept

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
        raise NotImplementedError(
            "lesson 8: return gradient * dq/dw, and the sum of gradient * dq/dt over each group"
        )

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
