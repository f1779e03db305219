"""Rounding that training can go through: forward rounds, backward passes the gradient straight through.

A rounded weight is a staircase in the weight: its derivative is 0 almost everywhere, and training would stop. The
straight-through estimator (Bengio et al. 2013, arXiv 1308.3432) computes the loss with the rounded weights and, going back,
treats rounding as the identity: the gradient that arrives at the rounded weight is added to the full-precision one. Small
steps then accumulate there until the rounded value moves to its next level.

What should happen to a weight that the grid had to clip? Each answer is a mask, stated by name and applied explicitly:

    pass         the gradient passes everywhere: the surrogate is w
    round-clip   it stops where the rounded value had to be clipped: the surrogate is clip(w, smallest - 1/2, largest + 1/2)
    clip-round   it stops outside the outermost levels themselves: the surrogate is clip(w, smallest, largest)     (in steps)

Bounds are inclusive: a weight that sits exactly on its outermost level, as the extreme of every group does, passes its
gradient in all three. Implementations that leave this to the derivative of a clamp depend on what that does at a tie, and
have lost the gradient of all extreme weights at once. The scale is recomputed from the weights at each step and treated as
a constant in the backward pass.

The default is `pass`. These grids follow their extreme, so a clipped weight that is pushed further out becomes the extreme
itself and the grid turns to fit it; about one weight in 200 is concerned. Measured on a small model, three seeds, the masks
end within 0.001 nats of one another, and `pass` alone costs no time.

`Op.straight_through` says that these backwards are not the derivatives of their forwards; tests compare them with the
surrogates instead.
"""

from collections.abc import Callable

from minimtp import kernels
from minimtp.backend import array_module
from minimtp.engine.tensor import Array, Op
from minimtp.kernels.plain import LARGEST_WITHOUT_INVERSE
from minimtp.quant.grids import MASKS, Grid


class Rounded:
    """What a matrix was rounded to, kept as long as it stands still, which whoever changes it has to say."""

    def __init__(self) -> None:
        self.stands_still = False
        self.values: Array | None = None

    def get(self, round_: Callable[[], Array]) -> Array:
        """The kept values, or those that round_() returns."""
        if not self.stands_still:
            return round_()
        if self.values is None:
            self.values = round_()
        return self.values


class FakeQuantize(Op):
    """w (N, K) -> the values its codes and scales stand for, (N, K), in w's dtype.

    grid: the grid; mask: the straight-through mask; name: what an error calls the weights; rounded: where the values are kept.
    Forward raises UserError when a value is not finite or too large for the grid, or rows are not whole groups.
    """

    straight_through = True

    def __init__(
        self, grid: Grid, mask: str = "pass", name: str = "the weights", rounded: Rounded | None = None
    ) -> None:
        if mask not in MASKS:
            raise ValueError(f"unknown straight-through mask {mask!r}: use {', '.join(MASKS)}")
        self.grid, self.mask, self.name, self.rounded = grid, mask, name, rounded or Rounded()

    def forward(self, weight: Array) -> Array:
        self.weight = weight  # the mask is computed again in the backward: no memory is spent on it
        return self.rounded.get(lambda: self.grid.fake_quantize(weight, self.name))

    def backward(self, gradient: Array) -> Array:
        inside = self.grid.straight_through_mask(self.weight, self.mask)
        return gradient if inside is None else gradient * inside


class FakeQuantizeActivations(Op):
    """x (..., K) -> what a quantized product sees of it, (..., K): int8 codes times a scale.

    how: "int8", one scale per 32 neighbours, or "int8-token", one for all K numbers of a token.
    The gradient passes everywhere: the largest magnitude of a group sets its scale, so nothing is clipped.
    """

    straight_through = True

    def __init__(self, how: str = "int8") -> None:
        self.round = {"int8": _round_groups, "int8-token": _round_tokens}[how]

    def forward(self, x: Array) -> Array:
        return self.round(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def backward(self, gradient: Array) -> Array:
        return gradient


def round_activations(rows: Array, how: str) -> Array:
    """rows (M, K) as a product sees them: `how` is "int8", "int8-token" or "none"."""
    return rows if how == "none" else FakeQuantizeActivations(how).forward(rows)


def _round_groups(rows: Array) -> Array:
    return kernels.for_array(rows).fake_quantize_activations(rows)


def _round_tokens(rows: Array) -> Array:
    """The same rule as for groups, code = round half to even(x * (127 / max|x|)), with the whole row as one group."""
    xp = array_module(rows)
    exact = rows.astype(xp.float32, copy=False)
    largest = xp.abs(exact).max(axis=1, keepdims=True)
    usable = largest > xp.float32(LARGEST_WITHOUT_INVERSE)
    inverse = xp.where(usable, xp.float32(127) / xp.where(usable, largest, xp.float32(1)), xp.float32(0))
    return (xp.rint(exact * inverse) * (largest / xp.float32(127))).astype(rows.dtype, copy=False)
