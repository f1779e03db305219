"""Exercises of lesson 1. Fill in the bodies, then run:

pytest --mine tests/engine/test_ops.py
"""

from minimtp.backend import Array, array_module  # noqa: F401  (array_module returns numpy or cupy)
from minimtp.engine.tensor import Op


class Divide(Op):
    def forward(self, a: Array, b: Array) -> Array:
        raise NotImplementedError("lesson 1: return a / b, and store what backward will need")

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        raise NotImplementedError("lesson 1: return the gradients of a and b, a tuple")


class SiLU(Op):
    """x * sigmoid(x)."""

    def forward(self, a: Array) -> Array:
        raise NotImplementedError("lesson 1: return a * sigmoid(a), without overflow at a = -1000")

    def backward(self, gradient: Array) -> Array:
        raise NotImplementedError(
            "lesson 1: return the gradient of a; do not forget the product rule"
        )


def undo_broadcasting(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum the gradient over the axes along which an input of `shape` was repeated."""
    raise NotImplementedError(
        "lesson 1: sum over the axes added in front, then over the repeated axes of size 1"
    )
