"""Check that a backward pass is the derivative of its forward pass, by central differences.

For a function f and random weights w, L(x) = sum(w * f(x)) is one number. With a step h

    dL/dx_i ≈ (L(x + h e_i) - L(x - h e_i)) / (2 h)

The error is O(h²), and O(1e-16 / h) from rounding in float64. h = 1e-5 balances the two.
"""

from collections.abc import Callable, Sequence

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Tensor


def check_gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Array],
    *,
    seed: int = 0,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    max_elements: int = 64,
    name: str = "function",
) -> float:
    """Compare the gradients of `function(*tensors)` with central differences, for every input.

    inputs: float64 arrays, all on one device. At most `max_elements` random elements of each input
    are checked. An error is relative to max(1, |expected|). Returns the largest error found.

    Raises AssertionError with the function, the input, the index, and the expected and received
    values.
    """
    rng, xp = np.random.default_rng(seed), array_module(*inputs)
    tensors = [Tensor(xp.array(array, dtype=np.float64), requires_grad=True) for array in inputs]
    output = function(*tensors)
    weights = xp.asarray(rng.standard_normal(output.shape))
    output.backward(weights)
    largest = 0.0
    for position, tensor in enumerate(tensors):
        gradient = xp.zeros(tensor.shape) if tensor.grad is None else tensor.grad
        elements = rng.permutation(tensor.data.size)[:max_elements]
        for index in (
            tuple(int(i) for i in np.unravel_index(element, tensor.shape)) for element in elements
        ):
            expected = _central_difference(function, tensors, weights, tensor.data, index, step)
            received = float(gradient[index])
            error = abs(received - expected) / max(1.0, abs(expected))
            if not error <= tolerance:
                raise AssertionError(
                    f"{name}: gradient of input {position} at {index}: "
                    f"expected {expected:.9g}, got {received:.9g}"
                )
            largest = max(largest, error)
    return largest


def _central_difference(
    function: Callable[..., Tensor],
    tensors: list[Tensor],
    weights: Array,
    data: Array,
    index: tuple[int, ...],
    step: float,
) -> float:
    original = float(data[index])
    values = []
    for shifted in (original + step, original - step):
        data[index] = shifted
        values.append(
            float((weights * function(*(Tensor(t.data.copy()) for t in tensors)).data).sum())
        )
    data[index] = original
    return (values[0] - values[1]) / (2 * step)
