"""Rounding: which integer stands for a number between two integers.

Away from the middle everybody agrees. At x.5 the formats do not, and for weights on a lattice (weights that were quantized
before, for instance) halves are common, so the mode is part of a format:

    half_even     to the even neighbour          numpy.rint, most of PyTorch, ggml's K-quants
    half_away     away from zero                 C's roundf, ggml's Q8_0
    half_up       towards plus infinity          trunc(x + 0.5) for x >= 0, ggml's Q4_0 and Q4_1
    stochastic    up with probability x - floor(x), whatever the fraction: the mean over many draws is x itself

All are exact in floating point: none computes x + 0.5, which turns 0.49999997 into 1. Integers stay what they are.
"""

from collections.abc import Callable
from typing import Any

from minimtp.backend import Array, array_module

Rounding = Callable[[Array], Array]


def half_even(x: Array) -> Array:
    """x, any shape -> the nearest integers in x's dtype, halves to the even one."""
    return array_module(x).rint(x)


def half_away(x: Array) -> Array:
    """x, any shape -> the nearest integers in x's dtype, halves away from zero."""
    xp = array_module(x)
    whole = xp.trunc(x)
    return whole + xp.trunc(2 * (x - whole))


def half_up(x: Array) -> Array:
    """x, any shape -> the nearest integers in x's dtype, halves to the larger one."""
    xp = array_module(x)
    whole = xp.trunc(x)
    fraction = x - whole
    return whole + (fraction >= 0.5) - (fraction < -0.5)


def stochastic(generator: Any) -> Rounding:
    """A rounding that draws from `generator` (NumPy's or CuPy's): floor(x), or one more with probability x - floor(x)."""

    def rounded(x: Array) -> Array:
        whole = array_module(x).floor(x)
        return whole + (generator.random(x.shape) < x - whole)

    return rounded


ROUNDINGS: dict[str, Rounding] = {
    "half-even": half_even,
    "half-away": half_away,
    "half-up": half_up,
}
