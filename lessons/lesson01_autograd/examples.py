"""Functions to differentiate: every elementary operation, a wrong one, and a small network."""

from collections.abc import Callable
from types import ModuleType

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.engine import ops
from minimtp.engine.tensor import Op, Tensor

rng = np.random.default_rng(1)


def normal(*shape: int) -> Array:
    return rng.standard_normal(shape)


def examples() -> dict[str, tuple[Callable[[], Op], list[Array]]]:
    """Return {operation: (a function that makes it, example inputs)} for all elementary ones."""
    return {
        "Add": (ops.Add, [normal(3, 4), normal(4)]),
        "Multiply": (ops.Multiply, [normal(3, 4), normal(3, 1)]),
        "Divide": (ops.Divide, [normal(3, 4), normal(4) + 4.0]),
        "Power": (lambda: ops.Power(3.0), [normal(5)]),
        "Exp": (ops.Exp, [normal(3, 2)]),
        "Log": (ops.Log, [np.exp(normal(3, 2))]),
        "Tanh": (ops.Tanh, [normal(3, 2)]),
        "SiLU": (ops.SiLU, [normal(3, 5)]),
        "Sum": (lambda: ops.Sum(axis=0), [normal(2, 3)]),
        "Reshape": (lambda: ops.Reshape((4, 3)), [normal(2, 6)]),
        "Transpose": (lambda: ops.Transpose((1, 0)), [normal(2, 3)]),
        "Index": (lambda: ops.Index(np.array([0, 2, 0])), [normal(3, 4)]),
        "Concatenate": (ops.Concatenate, [normal(2, 3), normal(2, 1)]),
        "MatMul": (ops.MatMul, [normal(2, 3), normal(3, 4)]),
    }


class ForgetfulSiLU(ops.SiLU):
    """Wrong: differentiates x * sigmoid(x) as if sigmoid(x) were a constant (no product rule)."""

    def backward(self, gradient: Array) -> Array:
        return gradient * self.sigmoid


def network(hidden: int, xp: ModuleType) -> tuple[Callable[..., Tensor], list[Array]]:
    """Return the loss function of a two-layer network, and its two weight matrices.

    The network is evaluated on 64 random points with 32 numbers each.
    """
    x, y = Tensor(xp.asarray(normal(64, 32))), Tensor(xp.asarray(normal(64, 1)))

    def loss(first: Tensor, second: Tensor) -> Tensor:
        error = ops.Tanh().apply(x @ first) @ second - y  # (64, 32) (32, H) (H, 1)
        return (error * error).mean()

    return loss, [xp.asarray(normal(32, hidden)) / 6, xp.asarray(normal(hidden, 1)) / 10]


def evaluate(loss: Callable[..., Tensor], weights: list[Array]) -> float:
    """Return the loss: one forward pass, and nothing recorded."""
    return float(loss(*map(Tensor, weights)).data)


def by_backward(loss: Callable[..., Tensor], weights: list[Array]) -> list[Array]:
    """Return the gradient, one array per weight matrix: one forward and one backward pass."""
    tensors = [Tensor(array, requires_grad=True) for array in weights]
    loss(*tensors).backward()
    return [tensor.grad for tensor in tensors]
