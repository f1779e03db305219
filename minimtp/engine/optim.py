"""AdamW on flat parameters: Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov &
Hutter 2019, algorithm 2).

    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g²
    x = x - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) - rate decay x

First, the gradient of each parameter group is scaled down to a norm of at most `clip`.
"""

from collections.abc import Callable
from functools import partial
from math import isfinite

from minimtp import kernels
from minimtp.backend import Array, array_module, to_numpy
from minimtp.engine.flat import FlatParameters, decays

InParts = Callable[[int, Callable[[slice], None]], None]


def as_one_part(size: int, function: Callable[[slice], None]) -> None:
    """Call function(part) for all of range(size)."""
    function(slice(0, size))


class AdamW:
    """Keeps two moments per parameter and the number of steps taken.

    rate_factor: dotted name -> the learning rate of that parameter, relative to the others'.
    """

    def __init__(
        self,
        flat: FlatParameters,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        rate_factor: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        xp = array_module(flat.data)
        self.flat = flat
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.first = xp.zeros_like(flat.data)
        self.second = xp.zeros_like(flat.data)
        self.steps = 0
        self.runs = [_runs(flat, group, rate_factor) for group in flat.groups]

    def step(
        self,
        learning_rate: float,
        clip: float | None = None,
        gradient_scale: float = 1.0,
        in_parts: InParts = as_one_part,
    ) -> float:
        """Update the parameters from `flat.gradients` and return the gradient's norm before
        clipping.

        gradient_scale: the factor by which `flat.gradients` are larger than the true gradient.
        in_parts: calls a function for parts of a number of elements (`Replicas.in_parts`).
        Skips the update if the norm is not finite.
        """
        flat = self.flat
        kernel = kernels.for_array(flat.data)
        of_groups = [flat.gradients[group] for group in flat.groups]
        squares = to_numpy(
            array_module(flat.data).stack([gradients.dot(gradients) for gradients in of_groups])
        ).tolist()
        if not isfinite(sum(squares)):
            return sum(squares)
        self.steps += 1
        for runs, square in zip(self.runs, squares, strict=True):
            norm = square**0.5 / gradient_scale
            scale = (clip / norm if clip is not None and norm > clip else 1.0) / gradient_scale
            for run, factor, decay in runs:
                arrays = [
                    array[run] for array in (flat.data, flat.gradients, self.first, self.second)
                ]
                settings = (
                    decay, learning_rate * factor, self.beta1, self.beta2, self.eps,
                    self.weight_decay, self.steps, scale,
                )  # fmt: skip
                in_parts(run.stop - run.start, partial(_update, kernel.adamw, arrays, settings))
        return sum(squares) ** 0.5 / gradient_scale

    def state(self) -> dict[str, Array]:
        """Return `first.NAME` and `second.NAME` for every parameter. They are views: copy or save
        them before the next step.
        """
        first, second = self.flat.by_name(self.first), self.flat.by_name(self.second)
        return {f"first.{name}": array for name, array in first.items()} | {
            f"second.{name}": array for name, array in second.items()
        }

    def load_state(self, state: dict[str, Array], steps: int) -> None:
        """Load the moments in `state`. Parameters that it does not contain, such as new heads, keep
        moments of zero.
        """
        for name, view in self.state().items():
            if name in state:
                view[...] = array_module(view).asarray(state[name])
        self.steps = steps


def _update(
    adamw: Callable[..., None], arrays: list[Array], settings: tuple[float, ...], part: slice
) -> None:
    """Update a part of the parameters and their moments."""
    adamw(*(array[part] for array in arrays), *settings)


def _runs(
    flat: FlatParameters, group: slice, rate_factor: Callable[[str], float]
) -> list[tuple[slice, float, float]]:
    """Split a group into the longest slices whose parameters have one factor and one share of the
    weight decay, 0 or 1: (slice, factor, share).
    """
    runs: list[tuple[slice, float, float]] = []
    for name, (place, shape) in flat.places.items():
        if not group.start <= place.start < group.stop:
            continue
        kind = rate_factor(name), float(decays(shape))
        if runs and runs[-1][1:] == kind:
            place = slice(runs.pop()[0].start, place.stop)
        runs.append((place, *kind))
    return runs
