"""Grids and a reference operation that the tests of learned steps share."""

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.tensor import Op
from minimtp.quant.grids import grid_named

NAMES = "q4_0", "q8_0", "int3-ggml-signed-g32", "int2-restricted-g32", "int4-affine-g32"
GRIDS = [grid_named(name) for name in NAMES]
each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def step_count(grid, x):
    """Return the number of steps that the grid stores for x."""
    scales = grid.encode(x)[1]
    return (scales.step if isinstance(scales, tuple) else scales).size


class LearnedBound(Op):
    """PACT as published: round activations x to multiples of bound / levels from 0 to the bound."""

    straight_through = True

    def __init__(self, levels):
        self.levels = levels

    def forward(self, x, bound):
        self.above = x >= bound
        self.between = (x >= 0) & ~self.above
        step = bound / self.levels
        return np.rint(np.clip(x, 0, bound) / step) * step

    def backward(self, gradient):
        return gradient * self.between, gradient * self.above
