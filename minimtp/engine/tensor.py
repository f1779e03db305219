"""Reverse-mode automatic differentiation on arrays.

A `Tensor` is an array that remembers which operation made it. An operation is an object with two
methods on raw arrays:

    forward(*inputs) -> output              stores what the backward needs in `self`
    backward(gradient of output) -> gradients of the inputs

`Tensor.backward()` walks the operations from the result back to the leaves in reverse topological
order. It applies the chain rule: the gradient of a tensor is the sum of the gradients that its uses
send back.

Choices:
* An operation refers to its inputs, and a tensor to the operation that made it. Nothing refers
  forward. Without cycles, reference counting frees a graph the moment its result is dropped.
* The walk is a loop, not a recursion, so a chain of 5,000 operations does not overflow the stack.
* Broadcasting is undone here (broadcasting.py), so that no operation has to handle it.
* The walk releases each operation after use, so memory falls during the backward pass. A second
  `backward()` through the same operations raises an error that says so. Gradients of separate
  graphs add up in `.grad`.
* Only first derivatives exist: backward works on arrays, not on tensors.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, TypeAlias

from minimtp.backend import Array, array_module, is_array, numpy
from minimtp.engine.broadcasting import undo_broadcasting

Number: TypeAlias = int | float


class _Recording(threading.local):
    """Whether this thread records operations. One shard of a batch may evaluate while another one
    records.
    """

    on = True


_recording = _Recording()


@contextmanager
def no_grad() -> Iterator[None]:
    """Compute the operations inside the block, in this thread, without recording them."""
    before = _recording.on
    _recording.on = False
    try:
        yield
    finally:
        _recording.on = before


def is_recording() -> bool:
    """Return whether this thread records operations, which keep what their backward needs."""
    return _recording.on


class Tensor:
    """An array with a gradient.

    data: a floating-point array; numbers and lists become a float64 NumPy array.
    grad: None, or an array of the same shape. Only leaves (tensors made by no operation) with
    `requires_grad` have one.
    """

    __slots__ = ("data", "grad", "requires_grad", "operation")

    # The operators below are declared here and attached by ops.py, which defines the operations.
    __add__: Callable[..., "Tensor"]
    __radd__: Callable[..., "Tensor"]
    __sub__: Callable[..., "Tensor"]
    __rsub__: Callable[..., "Tensor"]
    __mul__: Callable[..., "Tensor"]
    __rmul__: Callable[..., "Tensor"]
    __truediv__: Callable[..., "Tensor"]
    __rtruediv__: Callable[..., "Tensor"]
    __neg__: Callable[..., "Tensor"]
    __pow__: Callable[..., "Tensor"]
    __matmul__: Callable[..., "Tensor"]
    __getitem__: Callable[..., "Tensor"]
    reshape: Callable[..., "Tensor"]
    transpose: Callable[..., "Tensor"]
    sum: Callable[..., "Tensor"]
    mean: Callable[..., "Tensor"]

    def __init__(self, data: Array | Number | Sequence, requires_grad: bool = False) -> None:
        self.data = data if is_array(data) else numpy.asarray(data, dtype=float)
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.operation: Op | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> numpy.dtype:
        return self.data.dtype

    def detach(self) -> "Tensor":
        """Return a leaf with the same data. No gradient passes through it."""
        return Tensor(self.data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data!r})"

    def backward(self, gradient: Array | None = None) -> None:
        """Add d(self)/d(leaf), contracted with `gradient`, to the `.grad` of every leaf that self
        depends on.

        gradient: same shape as self. A tensor of one element does not need it (default: 1).

        Raises ValueError if the gradient is missing or has the wrong shape, RuntimeError if the
        graph was walked before.
        """
        if gradient is None:
            if self.data.size != 1:
                raise ValueError(
                    f"backward() of a tensor of shape {self.shape} needs the gradient to start from"
                )
            gradient = array_module(self.data).ones_like(self.data)
        backpropagate([self], [gradient])


class Parameter(Tensor):
    """A leaf that training changes."""

    __slots__ = ()

    def __init__(self, data: Array) -> None:
        super().__init__(data, requires_grad=True)


class Op:
    """An operation: forward and backward side by side. An object is used once.

    Options go to the constructor, arrays to `forward`. `backward` returns one gradient per input of
    `forward` (a single array if there is one input), and None for an input without a gradient.
    Subclasses enter `Op.registry` when they are defined, so that one test can walk all of them. An
    operation whose backward is *not* the derivative of its forward sets `straight_through = True`.
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

    def apply(self, *inputs: Tensor | Array | Number) -> Tensor:
        """Return the result as a Tensor. It is recorded if an input requires a gradient and
        recording is on.
        """
        first = next(value for value in inputs if isinstance(value, Tensor))
        tensors = tuple(
            value if isinstance(value, Tensor) else _constant(value, first) for value in inputs
        )
        output = Tensor(self.forward(*(tensor.data for tensor in tensors)))
        if _recording.on and any(tensor.requires_grad for tensor in tensors):
            self.inputs = tensors
            output.requires_grad = True
            output.operation = self
        return output

    def needs(self, index: int) -> bool:
        """Return whether the input of this index needs a gradient. All do without a record."""
        inputs = vars(self).get("inputs")
        return inputs is None or inputs[index].requires_grad

    def release(self) -> None:
        """Drop the inputs and everything that forward stored."""
        self.__dict__.clear()


def backpropagate(results: Sequence[Tensor], gradients: Sequence[Array]) -> None:
    """Add the gradients of sum_r <results[r], gradients[r]> to the `.grad` of every leaf, in one
    walk.

    A result may itself be an intermediate step of another one.

    Raises ValueError if a gradient has the wrong shape, RuntimeError if part of the graph was
    walked before.
    """
    pending: dict[int, Array] = {}
    for result, gradient in zip(results, gradients, strict=True):
        if gradient.shape != result.shape:
            raise ValueError(f"gradient has shape {gradient.shape}, the tensor {result.shape}")
        pending[id(result)] = pending[id(result)] + gradient if id(result) in pending else gradient
    order = _topological_order(results)
    while order:
        tensor = order.pop()  # all operations that used it have sent their gradients
        gradient = pending.pop(id(tensor), None)
        if gradient is None:  # no operation that used it sent a gradient
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
            part = undo_broadcasting(part, source.shape)
            # Not in place: an operation may return the same array for several inputs.
            pending[id(source)] = pending[id(source)] + part if id(source) in pending else part
        operation.release()


def _constant(value: Array | Number, like: Tensor) -> Tensor:
    """Convert a number or an array to the device and dtype of `like`, the tensor it is combined
    with.
    """
    return Tensor(array_module(like.data).asarray(value, dtype=like.dtype))


def _topological_order(results: Sequence[Tensor]) -> list[Tensor]:
    """Return every tensor that needs a gradient, each after the tensors it was made from."""
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
        leaf.grad = gradient.copy()  # another leaf may share the array
    else:
        leaf.grad += gradient
