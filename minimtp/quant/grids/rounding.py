"""Rounding modes: which integer represents a number between two integers.

All modes agree except at x.5, where formats differ. Halves are common for weights on a lattice,
such as weights that were quantized before, so the mode is part of a format:

    half_even     to the even neighbour          numpy.rint, most of PyTorch, ggml's K-quants
    half_away     away from zero                 C's roundf, ggml's Q8_0
    half_up       towards plus infinity          trunc(x + 0.5) for x >= 0, ggml's Q4_0 and Q4_1
    stochastic    up with probability x - floor(x): the mean over many draws is x itself

All modes are exact in floating point. None computes x + 0.5, which would turn 0.49999997 into 1.
Integers are not changed.
"""

from collections.abc import Callable
from typing import Protocol

from minimtp.backend import Array, array_module

Rounding = Callable[[Array], Array]


class UniformSource(Protocol):
    """A random generator of NumPy or CuPy."""

    def random(self, size: tuple[int, ...]) -> Array: ...


def half_even(x: Array) -> Array:
    """x, any shape -> the nearest integers in x's dtype. Halves go to the even one."""
    return array_module(x).rint(x)


def half_away(x: Array) -> Array:
    """x, any shape -> the nearest integers in x's dtype. Halves are rounded away from zero."""
    xp = array_module(x)
    whole = xp.trunc(x)
    return whole + xp.trunc(2 * (x - whole))


def half_up(x: Array) -> Array:
    """x, any shape -> the nearest integers in x's dtype. Halves go to the larger one."""
    xp = array_module(x)
    whole = xp.trunc(x)
    fraction = x - whole
    return whole + (fraction >= 0.5) - (fraction < -0.5)


def stochastic(rng: UniformSource) -> Rounding:
    """Return a random rounding: floor(x), plus one with probability x - floor(x)."""

    def rounded(x: Array) -> Array:
        whole = array_module(x).floor(x)
        return whole + (rng.random(x.shape) < x - whole)

    return rounded


ROUNDINGS: dict[str, Rounding] = {
    "half-even": half_even,
    "half-away": half_away,
    "half-up": half_up,
}
