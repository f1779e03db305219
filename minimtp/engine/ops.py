"""The elementary operations. Each names its derivative in its backward; shapes may broadcast, the engine undoes it."""

from collections.abc import Sequence
from typing import Any

from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Op, Tensor


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
        self.sigmoid = 0.5 * (
            1.0 + array_module(a).tanh(0.5 * a)
        )  # this form of the sigmoid cannot overflow
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
    """a[index]; an element that was read several times receives the sum of its gradients."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, a: Array) -> Array:
        self.a = a
        return a[self.index]

    def backward(self, gradient: Array) -> Array:
        xp = array_module(gradient)
        result = xp.zeros_like(self.a)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if all(isinstance(part, int | slice) for part in parts):  # then nothing was read twice
            result[self.index] = gradient
        else:
            xp.add.at(result, self.index, gradient)
        return result


class Concatenate(Op):
    """Joins along the last axis: (..., A), (..., B), ... -> (..., A + B + ...)."""

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
    """(..., M, K) @ (..., K, N) -> (..., M, N); leading axes broadcast. Vectors are not accepted: give them an axis."""

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
