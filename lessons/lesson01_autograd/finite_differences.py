"""The slow way to a gradient: finite differences."""

from collections.abc import Callable, Sequence

from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Tensor


def difference(
    loss: Callable[..., Tensor], weights: Sequence[Array], which: int, index: int, step: float
) -> float:
    """Return (L(w + h) - L(w - h)) / 2h with h = step, for one element w.

    which: the index of the array in `weights`. index: the index of the element in the flat array.
    """
    numbers = weights[which].reshape(-1)  # a view
    original, values = numbers[index].copy(), []
    for shifted in (original + step, original - step):
        numbers[index] = shifted
        values.append(float(loss(*map(Tensor, weights)).data))
    numbers[index] = original
    return (values[0] - values[1]) / (2 * step)


def differences(
    loss: Callable[..., Tensor], weights: Sequence[Array], step: float = 1e-5
) -> list[Array]:
    """Return the gradient, one array per array of `weights`.

    This needs two evaluations of the loss per number.
    """
    xp = array_module(*weights)
    gradients = [
        [difference(loss, weights, which, i, step) for i in range(w.size)]
        for which, w in enumerate(weights)
    ]
    return [
        xp.asarray(gradient).reshape(w.shape)
        for gradient, w in zip(gradients, weights, strict=True)
    ]
