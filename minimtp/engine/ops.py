"""The elementary operations, each with its derivative, and the operators of `Tensor` that they
define.

Inputs may broadcast. The backward pass in tensor.py undoes it.
"""

from collections.abc import Sequence
from types import EllipsisType
from typing import TypeAlias

from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Number, Op, Tensor

Operand: TypeAlias = Tensor | Array | Number
Part: TypeAlias = int | slice | EllipsisType | Array
Place: TypeAlias = Part | tuple[Part, ...]


class Add(Op):
    def forward(self, a: Array, b: Array) -> Array:
        return a + b

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        return gradient, gradient


class Multiply(Op):
    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return a * b

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        return gradient * self.b, gradient * self.a


class Divide(Op):
    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return a / b

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        return gradient / self.b, -gradient * self.a / (self.b * self.b)


class Power(Op):
    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def forward(self, a: Array) -> Array:
        self.a = a
        return a**self.exponent

    def backward(self, gradient: Array) -> Array:
        if self.exponent == 0:
            return gradient * 0  # not 0 * a**-1, which is NaN at 0
        return gradient * self.exponent * self.a ** (self.exponent - 1)


class Exp(Op):
    def forward(self, a: Array) -> Array:
        self.result = array_module(a).exp(a)
        return self.result

    def backward(self, gradient: Array) -> Array:
        return gradient * self.result


class Log(Op):
    def forward(self, a: Array) -> Array:
        self.a = a
        return array_module(a).log(a)

    def backward(self, gradient: Array) -> Array:
        return gradient / self.a


class Tanh(Op):
    def forward(self, a: Array) -> Array:
        self.result = array_module(a).tanh(a)
        return self.result

    def backward(self, gradient: Array) -> Array:
        return gradient * (1.0 - self.result * self.result)


class SiLU(Op):
    """x * sigmoid(x)."""

    def forward(self, a: Array) -> Array:
        self.a = a
        self.sigmoid = 0.5 * (1.0 + array_module(a).tanh(0.5 * a))  # this form cannot overflow
        return a * self.sigmoid

    def backward(self, gradient: Array) -> Array:
        return gradient * self.sigmoid * (1.0 + self.a * (1.0 - self.sigmoid))


class Sum(Op):
    def __init__(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> None:
        self.axis, self.keepdims = axis, keepdims

    def forward(self, a: Array) -> Array:
        self.shape = a.shape
        return a.sum(axis=self.axis, keepdims=self.keepdims)

    def backward(self, gradient: Array) -> Array:
        xp = array_module(gradient)
        if self.axis is not None and not self.keepdims:
            gradient = xp.expand_dims(gradient, self.axis)
        return xp.broadcast_to(gradient, self.shape)


class Reshape(Op):
    def __init__(self, shape: Sequence[int]) -> None:
        self.target = tuple(shape)

    def forward(self, a: Array) -> Array:
        self.shape = a.shape
        return a.reshape(self.target)

    def backward(self, gradient: Array) -> Array:
        return gradient.reshape(self.shape)


class Transpose(Op):
    def __init__(self, axes: Sequence[int]) -> None:
        self.axes = tuple(axes)

    def forward(self, a: Array) -> Array:
        return a.transpose(self.axes)

    def backward(self, gradient: Array) -> Array:
        inverse = [0] * len(self.axes)
        for position, axis in enumerate(self.axes):
            inverse[axis] = position
        return gradient.transpose(inverse)


class Index(Op):
    """a[index]. An element that was read several times receives the sum of its gradients."""

    def __init__(self, index: Place) -> None:
        self.index = index

    def forward(self, a: Array) -> Array:
        self.a = a
        return a[self.index]

    def backward(self, gradient: Array) -> Array:
        xp = array_module(gradient)
        result = xp.zeros_like(self.a)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if all(
            isinstance(part, int | slice | EllipsisType) for part in parts
        ):  # nothing was read twice
            result[self.index] = gradient
        else:
            xp.add.at(result, self.index, gradient)
        return result


class Concatenate(Op):
    """Join arrays along the last axis: (..., A), (..., B), ... -> (..., A + B + ...)."""

    def forward(self, *arrays: Array) -> Array:
        self.widths = [array.shape[-1] for array in arrays]
        return array_module(*arrays).concatenate(arrays, axis=-1)

    def backward(self, gradient: Array) -> tuple[Array, ...]:
        parts, start = [], 0
        for width in self.widths:
            parts.append(gradient[..., start : start + width])
            start += width
        return tuple(parts)


class MatMul(Op):
    """(..., M, K) @ (..., K, N) -> (..., M, N). Leading axes broadcast.

    Raises ValueError for vectors: give them a second axis.
    """

    def forward(self, a: Array, b: Array) -> Array:
        if a.ndim < 2 or b.ndim < 2:
            raise ValueError(f"MatMul takes matrices, got shapes {a.shape} and {b.shape}")
        self.a, self.b = a, b
        return a @ b

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        return gradient @ self.b.swapaxes(-1, -2), self.a.swapaxes(-1, -2) @ gradient


def concatenate(*tensors: Tensor) -> Tensor:
    """Join tensors along their last axis."""
    return Concatenate().apply(*tensors)


def _add(a: Tensor, b: Operand) -> Tensor:
    return Add().apply(a, b)


def _subtract(a: Tensor, b: Operand) -> Tensor:
    return a + (-b)


def _subtract_from(a: Tensor, b: Operand) -> Tensor:
    return (-a) + b


def _multiply(a: Tensor, b: Operand) -> Tensor:
    return Multiply().apply(a, b)


def _divide(a: Tensor, b: Operand) -> Tensor:
    return Divide().apply(a, b)


def _divide_into(a: Tensor, b: Operand) -> Tensor:
    return Divide().apply(b, a)


def _negate(a: Tensor) -> Tensor:
    return a * -1.0


def _power(a: Tensor, exponent: float) -> Tensor:
    return Power(exponent).apply(a)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    return MatMul().apply(a, b)


def _index(a: Tensor, place: Place) -> Tensor:
    return Index(place).apply(a)


def _reshape(a: Tensor, *shape: int) -> Tensor:
    return Reshape(shape).apply(a)


def _transpose(a: Tensor, *axes: int) -> Tensor:
    return Transpose(axes).apply(a)


def _sum(a: Tensor, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    return Sum(axis, keepdims).apply(a)


def _mean(a: Tensor) -> Tensor:
    return a.sum() * (1.0 / a.data.size)


Tensor.__add__, Tensor.__radd__ = _add, _add
Tensor.__sub__, Tensor.__rsub__ = _subtract, _subtract_from
Tensor.__mul__, Tensor.__rmul__ = _multiply, _multiply
Tensor.__truediv__, Tensor.__rtruediv__ = _divide, _divide_into
Tensor.__neg__ = _negate
Tensor.__pow__ = _power
Tensor.__matmul__ = _matmul
Tensor.__getitem__ = _index
Tensor.reshape = _reshape
Tensor.transpose = _transpose
Tensor.sum = _sum
Tensor.mean = _mean
