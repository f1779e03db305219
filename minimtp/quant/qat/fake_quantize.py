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
from minimtp.backend import Array, array_module
from minimtp.engine.fused import EmbeddingLookup
from minimtp.engine.precision import matmul, operand
from minimtp.engine.tensor import Op
from minimtp.kernels.plain.quantize import LARGEST_WITHOUT_INVERSE
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
        self.weight = weight  # the mask is computed again in the backward: no memory is spent on it
        return self.grid.fake_quantize(weight, self.name)

    def backward(self, gradient: Array) -> Array:
        inside = self.grid.straight_through_mask(self.weight, self.mask)
        return gradient if inside is None else gradient * inside


class RoundedProduct(Op):
    """y = round(x) round(W)ᵀ for x (..., K) and W (N, K); then dx = dy round(W), and dyᵀ round(x) goes through W's rounding.

    rounding: makes the operation that rounds W, whose further inputs (what is learned of the grid) follow W; activations: how
    x is rounded, as `round_activations` takes it. Its gradient passes everywhere: the largest magnitude of a group sets the
    scale, so nothing is clipped.
    Both are rounded again in the backward, which takes less time than fetching what was rounded before from memory. Kept are
    x and W themselves, as by a product without rounding: training through rounding needs no memory for each weight.
    """

    straight_through = True

    def __init__(self, rounding: Callable[[], Op], activations: str = "int8") -> None:
        self.rounding, self.activations = rounding, activations

    def forward(self, x: Array, *matrix: Array) -> Array:
        self.x, self.matrix = x, matrix
        rounded = operand(self.rounding().forward(*matrix))  # (N, K)
        return matmul(self._rows(), rounded.T).reshape(*x.shape[:-1], -1)

    def backward(self, gradient: Array) -> tuple[Array, ...]:
        rows = operand(gradient.reshape(-1, gradient.shape[-1]))  # (M, N)
        rounding = self.rounding()
        dx = matmul(rows, operand(rounding.forward(*self.matrix))).reshape(self.x.shape)  # (..., K)
        dmatrix = rounding.backward(matmul(rows.T, self._rows()))  # (N, K)
        return dx, *(dmatrix if isinstance(dmatrix, tuple) else (dmatrix,))

    def _rows(self) -> Array:
        return operand(
            round_activations(self.x.reshape(-1, self.x.shape[-1]), self.activations)
        )  # (M, K)


class RoundedLookup(EmbeddingLookup):
    """round(W)[tokens]: tokens (B, T) integers, W (V, D) -> (B, T, D). As in `RoundedProduct`, W alone is kept."""

    straight_through = True

    def __init__(self, tokens: Array, rounding: Callable[[], Op]) -> None:
        super().__init__(tokens)
        self.rounding = rounding

    def forward(self, weight: Array) -> Array:
        looked_up = super().forward(self.rounding().forward(weight))
        self.weight = weight
        return looked_up

    def backward(self, gradient: Array) -> Array:
        rounding = self.rounding()
        rounding.forward(self.weight)
        return rounding.backward(super().backward(gradient))


def round_activations(x: Array, how: str) -> Array:
    """x (..., K) as a quantized product sees it, (..., K): int8 codes times a scale.

    how: "int8", one scale per 32 neighbours, "int8-token", one for all K numbers of a token, or "none".
    """
    if how == "none":
        return x
    rows = x.reshape(-1, x.shape[-1])  # (M, K)
    return {"int8": _round_groups, "int8-token": _round_tokens}[how](rows).reshape(x.shape)


def _round_groups(rows: Array) -> Array:
    return kernels.for_array(rows).fake_quantize_activations(rows)


def _round_tokens(rows: Array) -> Array:
    """The same rule as for groups, code = round half to even(x * (127 / max|x|)), with the whole row as one group."""
    xp = array_module(rows)
    exact = rows.astype(xp.float32, copy=False)
    largest = xp.abs(exact).max(axis=1, keepdims=True)
    usable = largest > xp.float32(LARGEST_WITHOUT_INVERSE)
    inverse = xp.where(
        usable, xp.float32(127) / xp.where(usable, largest, xp.float32(1)), xp.float32(0)
    )
    return (xp.rint(exact * inverse) * (largest / xp.float32(127))).astype(rows.dtype, copy=False)
