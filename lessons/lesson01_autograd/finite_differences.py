"""The wrong way: derivatives by trying."""

from collections.abc import Callable, Sequence

from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Tensor


def difference(
    loss: Callable[..., Tensor], weights: Sequence[Array], which: int, index: int, step: float
) -> float:
    """(L(w + h) - L(w - h)) / 2h, where w is element `index` of array number `which`."""
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
    """The gradient, one array per array of `weights`: two evaluations of the loss for every number in them."""
    xp = array_module(*weights)
    gradients = [
        [difference(loss, weights, which, i, step) for i in range(w.size)]
        for which, w in enumerate(weights)
    ]
    return [
        xp.asarray(gradient).reshape(w.shape)
        for gradient, w in zip(gradients, weights, strict=True)
    ]
