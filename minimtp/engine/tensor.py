"""Reverse-mode automatic differentiation on arrays, in one sitting.

A `Tensor` is an array that remembers which operation made it. An operation is an object with two methods on raw arrays:

    forward(*inputs) -> output              keeps on itself what the backward needs
    backward(gradient of output) -> gradients of the inputs

`Tensor.backward()` walks the operations from the result back to the leaves in reverse topological order and applies the
chain rule: the gradient of a tensor is the sum of what each of its uses sends back.

Choices:
* An operation refers to its inputs, a tensor to the operation that made it, and nothing refers forward. Without cycles a
  graph is freed by reference counting the moment the result is dropped.
* The walk is a loop, not a recursion: a chain of 5,000 operations is no problem.
* Broadcasting is undone here, once, so no operation has to think of it.
* The walk lets go of each operation as soon as it has been used, so memory falls during the backward pass. A second
  `backward()` through the same operations is an error that says so; gradients of separate graphs add up in `.grad`.
* Only first derivatives: backward works on arrays, not on tensors.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from minimtp.backend import Array, array_module, numpy

_thread = (
    threading.local()
)  # shards of a batch run in threads; one may evaluate while another records


@contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside the block (in this thread) are computed but not recorded."""
    before = getattr(_thread, "recording", True)
    _thread.recording = False
    try:
        yield
    finally:
        _thread.recording = before


class Tensor:
    """An array with a gradient.

    data: a floating NumPy or CuPy array (other things are converted with NumPy).
    grad: None, or an array of the same shape; only leaves (tensors made by no operation) with `requires_grad` keep one.
    """

    __slots__ = ("data", "grad", "requires_grad", "operation")

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        self.data = data if hasattr(data, "dtype") else numpy.asarray(data, dtype=float)
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.operation: Op | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def detach(self) -> "Tensor":
        """A leaf with the same data that no gradient passes through."""
        return Tensor(self.data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data!r})"

    def backward(self, gradient: Array | None = None) -> None:
        """Add d(self)/d(leaf), contracted with `gradient`, to the `.grad` of every leaf that self depends on.

        gradient: same shape as self; it may be left out for a tensor of one element (then it is 1).

        Raises ValueError for a missing or misshapen gradient, RuntimeError when the graph was walked before.
        """
        if gradient is None:
            if self.data.size != 1:
                raise ValueError(
                    f"backward() of a tensor of shape {self.shape} needs the gradient to start from"
                )
            gradient = array_module(self.data).ones_like(self.data)
        backpropagate([self], [gradient])

    # Operators. The operations live in ops.py, which imports this file; hence the imports inside.

    def __add__(self, other: Any) -> "Tensor":
        from minimtp.engine.ops import Add

        return Add().apply(self, other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> "Tensor":
        from minimtp.engine.ops import Multiply

        return Multiply().apply(self, other)

    __rmul__ = __mul__

    def __neg__(self) -> "Tensor":
        return self * -1.0

    def __sub__(self, other: Any) -> "Tensor":
        return self + (-other)

    def __rsub__(self, other: Any) -> "Tensor":
        return (-self) + other

    def __truediv__(self, other: Any) -> "Tensor":
        from minimtp.engine.ops import Divide

        return Divide().apply(self, other)

    def __rtruediv__(self, other: Any) -> "Tensor":
        from minimtp.engine.ops import Divide

        return Divide().apply(other, self)

    def __pow__(self, exponent: float) -> "Tensor":
        from minimtp.engine.ops import Power

        return Power(exponent).apply(self)

    def __matmul__(self, other: "Tensor") -> "Tensor":
        from minimtp.engine.ops import MatMul

        return MatMul().apply(self, other)

    def __getitem__(self, index: Any) -> "Tensor":
        from minimtp.engine.ops import Index

        return Index(index).apply(self)

    def reshape(self, *shape: int) -> "Tensor":
        from minimtp.engine.ops import Reshape

        return Reshape(shape).apply(self)

    def transpose(self, *axes: int) -> "Tensor":
        from minimtp.engine.ops import Transpose

        return Transpose(axes).apply(self)

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "Tensor":
        from minimtp.engine.ops import Sum

        return Sum(axis, keepdims).apply(self)

    def mean(self) -> "Tensor":
        return self.sum() * (1.0 / self.data.size)


class Parameter(Tensor):
    """A leaf that training changes."""

    __slots__ = ()

    def __init__(self, data: Array) -> None:
        super().__init__(data, requires_grad=True)


class Op:
    """An operation: forward and backward side by side, used once.

    Options go to the constructor, arrays to `forward`. `backward` returns one gradient per input of `forward` (a single
    array when there is one input), None where there is none. Subclasses enter `Op.registry` when they are defined, so one
    test walks all of them. An operation whose backward is *not* the derivative of its forward says `straight_through = True`.
    """

    registry: ClassVar[dict[str, type["Op"]]] = {}
    straight_through: ClassVar[bool] = False
    inputs: tuple[Tensor, ...]

    def __init_subclass__(cls) -> None:
        Op.registry[cls.__name__] = cls

    def forward(self, *arrays: Array) -> Array:
        raise NotImplementedError

    def backward(self, gradient: Array) -> Array | tuple[Array | None, ...]:
        raise NotImplementedError

    def apply(self, *inputs: Any) -> Tensor:
        """The result as a Tensor; recorded if any input requires a gradient and recording is on."""
        first = next(value for value in inputs if isinstance(value, Tensor))
        tensors = tuple(
            value if isinstance(value, Tensor) else _constant(value, first) for value in inputs
        )
        output = Tensor(self.forward(*(tensor.data for tensor in tensors)))
        if getattr(_thread, "recording", True) and any(tensor.requires_grad for tensor in tensors):
            self.inputs = tensors
            output.requires_grad = True
            output.operation = self
        return output

    def release(self) -> None:
        """Let go of inputs and of everything that forward kept."""
        self.__dict__.clear()


def backpropagate(results: Sequence[Tensor], gradients: Sequence[Array]) -> None:
    """Add the gradients of sum_r <results[r], gradients[r]> to the `.grad` of every leaf, in one walk.

    A result may itself be an intermediate step of another one.

    Raises ValueError for a misshapen gradient, RuntimeError when part of the graph was walked before.
    """
    pending: dict[int, Array] = {}
    for result, gradient in zip(results, gradients, strict=True):
        if gradient.shape != result.shape:
            raise ValueError(f"gradient has shape {gradient.shape}, the tensor {result.shape}")
        pending[id(result)] = pending[id(result)] + gradient if id(result) in pending else gradient
    order = _topological_order(results)
    while order:
        tensor = order.pop()  # nothing but its uses keeps a tensor alive, and those are done
        gradient = pending.pop(id(tensor), None)
        if gradient is None:  # every operation that used it had no gradient for it
            continue
        operation = tensor.operation
        if operation is None:
            _accumulate_in_leaf(tensor, gradient)
            continue
        parts = operation.backward(gradient)
        if not isinstance(parts, tuple):
            parts = (parts,)
        for source, part in zip(operation.inputs, parts, strict=True):
            if part is None or not source.requires_grad:
                continue
            part = _undo_broadcasting(part, source.shape)
            # Never in place: an operation may hand the same array to several inputs.
            pending[id(source)] = pending[id(source)] + part if id(source) in pending else part
        operation.release()


def _constant(value: Any, like: Tensor) -> Tensor:
    """A number or an array beside a tensor takes the tensor's device and dtype."""
    return Tensor(array_module(like.data).asarray(value, dtype=like.dtype))


def _topological_order(results: Sequence[Tensor]) -> list[Tensor]:
    """Every tensor that needs a gradient, each after the tensors it was made from."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack = [(result, False) for result in results]
    while stack:
        tensor, inputs_are_done = stack.pop()
        if inputs_are_done:
            order.append(tensor)
            continue
        if id(tensor) in seen or not tensor.requires_grad:
            continue
        seen.add(id(tensor))
        stack.append((tensor, True))
        if tensor.operation is not None:
            if "inputs" not in vars(tensor.operation):
                raise RuntimeError(
                    "backward() was already called through this part of the graph; compute it again"
                )
            stack.extend((source, False) for source in tensor.operation.inputs)
    return order


def _accumulate_in_leaf(leaf: Tensor, gradient: Array) -> None:
    if leaf.grad is None:
        leaf.grad = gradient.copy()  # the array may be shared with another leaf
    else:
        leaf.grad += gradient


def _undo_broadcasting(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an input of `shape` was repeated."""
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    axes = tuple(range(added)) + tuple(
        added + axis
        for axis, size in enumerate(shape)
        if size == 1 and gradient.shape[added + axis] != 1
    )
    return gradient.sum(axis=axes, keepdims=True).reshape(shape)
