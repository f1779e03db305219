"""Lesson 1's exercises. Fill in the bodies, then:  pytest --mine tests/engine/test_engine.py"""

from minimtp.backend import Array, array_module  # noqa: F401  (numpy or cupy, by the array)
from minimtp.engine.tensor import Op


class Divide(Op):
    def forward(self, a: Array, b: Array) -> Array:
        raise NotImplementedError("lesson 1: a / b, and what the backward will need")

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        raise NotImplementedError("lesson 1: the gradients of a and of b")


class SiLU(Op):
    """x * sigmoid(x)."""

    def forward(self, a: Array) -> Array:
        raise NotImplementedError("lesson 1: a * sigmoid(a), without overflow for a = -1000")

    def backward(self, gradient: Array) -> Array:
        raise NotImplementedError("lesson 1: the gradient of a; mind the product rule")


def _undo_broadcasting(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an input of `shape` was repeated."""
    raise NotImplementedError(
        "lesson 1: first the axes that were added in front, then those of size 1 that grew"
    )
