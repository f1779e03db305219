"""Rounding that gradients can pass. The forward pass rounds, and the backward pass sends the
gradient straight through.

A rounded weight is a staircase function of the weight. Its derivative is 0 almost everywhere, so
training would stop. The straight-through estimator (Bengio et al. 2013, arXiv 1308.3432) computes
the loss with the rounded weights. In the backward pass it treats rounding as the identity: the
gradient at the rounded weight is added to the full-precision one. Small updates accumulate there
until the rounded value moves to its next level.

What should happen to a weight that the grid has to clip? There are three answers. Each is a mask
with a name:

    pass        the gradient passes everywhere. The surrogate is w
    round-clip  it stops if the rounded value has to be clipped.
                The surrogate is clip(w, smallest - 1/2, largest + 1/2), in steps
    clip-round  it stops outside the outermost levels.
                The surrogate is clip(w, smallest, largest), in steps

Bounds are inclusive. A weight exactly on its outermost level, such as the extreme of every group,
passes its gradient with all three masks. Implementations that rely on the derivative of a clamp
depend on what it does at a tie, and some have lost the gradient of all extreme weights. The scale
is recomputed from the weights at each step, and is a constant in the backward pass.

The default is `pass`. The grids follow the extreme of each group, so a clipped weight that is
pushed further out becomes the extreme itself, and the grid adapts to it. About one weight in 200 is
clipped. On a small model with three seeds, the masks end within 0.001 nats of one another, and only
`pass` takes no additional time.

`Op.straight_through` marks operations whose backward is not the derivative of their forward. Tests
compare their gradients with the surrogates instead.
"""

from collections.abc import Callable

from minimtp.backend import Array, array_module
from minimtp.engine.fused import EmbeddingLookup
from minimtp.engine.precision import matmul, operand
from minimtp.engine.tensor import Op
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import MASKS, Grid


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
        self.weight = weight  # the backward recomputes the mask from it, which takes no memory
        return self.grid.fake_quantize(weight, self.name)

    def backward(self, gradient: Array) -> Array:
        inside = self.grid.straight_through_mask(self.weight, self.mask)
        return gradient if inside is None else gradient * inside


class FakeQuantizedMatMul(Op):
    """y = round(x) round(W)ᵀ for x (..., K) and W (N, K). Then dx = dy round(W). The gradient dyᵀ
    round(x) of round(W) passes through W's rounding.

    rounding: makes the operation that rounds W. Its further inputs, the learned parameters of the
    grid, follow W.
    activations: how x is rounded, one of ACTIVATIONS. The gradient of x passes everywhere: the
    largest magnitude of a group sets the scale, so nothing is clipped. Both are rounded again in
    the backward pass, which takes less time than reading saved copies from memory. A matmul without
    rounding also saves x and W, so training with rounding needs no additional memory per weight.
    Only learned scales are saved, one or two for each group: computing them takes as long as
    rounding.
    """

    straight_through = True

    def __init__(self, rounding: Callable[[], Op], activations: str = "int8") -> None:
        self.rounding, self.activations = rounding, activations

    def forward(self, x: Array, *matrix: Array) -> Array:
        self.x, self.matrix, rounding = x, matrix, self.rounding()
        rounded = operand(rounding.forward(*matrix))  # (N, K)
        self.scales = rounding.scales
        return matmul(self._rows(), rounded.T).reshape(*x.shape[:-1], -1)  # (..., N)

    def backward(self, gradient: Array) -> tuple[Array | None, ...]:
        rounding = self.rounding()
        if self.scales is not None:
            rounding.scales = self.scales
        rows = operand(gradient.reshape(-1, gradient.shape[-1]))  # (M, N)
        rounded = operand(rounding.forward(*self.matrix))  # (N, K)
        dx = matmul(rows, rounded).reshape(self.x.shape)  # (..., K)
        if not any(tensor.requires_grad for tensor in self.inputs[1:]):
            return dx, *(None for _ in self.matrix)
        # (N, K), and the gradients of the learned parameters
        dmatrix = rounding.backward(matmul(rows.T, self._rows()))
        return dx, *(dmatrix if isinstance(dmatrix, tuple) else (dmatrix,))

    def _rows(self) -> Array:
        rows = self.x.reshape(-1, self.x.shape[-1])  # (M, K)
        return operand(round_activations(rows, self.activations))


class RoundedMatMul(Op):
    """y = round(x) Wᵀ for x (..., K) and a rounded matrix W (N, K) that does not learn: dx = dy W.

    activations: how x is rounded, one of ACTIVATIONS.
    """

    straight_through = True

    def __init__(self, rounded: Array, activations: str) -> None:
        self.rounded, self.activations = rounded, activations

    def forward(self, x: Array) -> Array:
        self.shape, self.weight = x.shape, operand(self.rounded)  # (N, K)
        rows = operand(round_activations(x.reshape(-1, x.shape[-1]), self.activations))  # (M, K)
        return matmul(rows, self.weight.T).reshape(*x.shape[:-1], -1)  # (..., N)

    def backward(self, gradient: Array) -> Array:
        rows = operand(gradient.reshape(-1, gradient.shape[-1]))  # (M, N)
        return matmul(rows, self.weight).reshape(self.shape)  # (..., K)


class FakeQuantizedLookup(EmbeddingLookup):
    """round(W)[tokens]: tokens (B, T) integers, W (V, D) -> (B, T, D). Only W is saved, as in
    `FakeQuantizedMatMul`.
    """

    straight_through = True

    def __init__(self, tokens: Array, rounding: Callable[[], Op]) -> None:
        super().__init__(tokens)
        self.rounding = rounding

    def forward(self, weight: Array) -> Array:
        looked_up = super().forward(self.rounding().forward(weight))  # (B, T, D)
        self.weight = weight
        return looked_up

    def backward(self, gradient: Array) -> Array:
        rounding = self.rounding()
        rounding.forward(self.weight)
        return rounding.backward(super().backward(gradient))  # (V, D)


class FakeQuantizedRows(Op):
    """round(W)[rows] for R different row numbers: W (N, K), and the parameters of the grid -> (R,
    K).

    rounding: the operation that rounds W. by_row: whether each row has scales of its own. Then only
    the selected rows are rounded.
    """

    straight_through = True
    scales = None  # not kept

    def __init__(self, rows: Array, rounding: Op, by_row: bool) -> None:
        self.rows, self.rounding, self.by_row = rows, rounding, by_row

    def forward(self, weight: Array, *learned: Array) -> Array:
        self.like = weight
        if self.by_row:
            return self.rounding.forward(weight[self.rows])
        return self.rounding.forward(weight, *learned)[self.rows]

    def backward(self, gradient: Array) -> Array | tuple[Array, ...]:
        result = array_module(gradient).zeros_like(self.like)  # (N, K)
        if self.by_row:
            result[self.rows] = self.rounding.backward(gradient)
            return result
        result[self.rows] = gradient
        return self.rounding.backward(result)
