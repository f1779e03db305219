"""Scales, whatever a grid keeps of them: one array (N, groups), or a named tuple of such arrays.

Methods that choose scales group by group take parts of them, put parts together and choose between two; here once for both.
"""

from collections.abc import Callable

from minimtp.backend import Array, array_module
from minimtp.errors import UserError
from minimtp.quant.grids.base import LARGEST_FLOAT16, Grid, Scales, rounded_to_float16


def map_scales(function: Callable[..., Array], *scales: Scales) -> Scales:
    """function(array, ...) on the array, or on each of the tuples' arrays."""
    if isinstance(scales[0], tuple):
        return type(scales[0])(*(function(*arrays) for arrays in zip(*scales, strict=True)))
    return function(*scales)


def put_group(scales: Scales, group: int, part: Scales) -> None:
    """Overwrite one group's scales, (N, groups), by `part`, (N, 1)."""

    def put(array: Array, new: Array) -> Array:
        array[:, group : group + 1] = new
        return array

    map_scales(put, scales, part)


def choose_scales(better: Array, new: Scales, old: Scales) -> Scales:
    """`new` for the groups where the booleans `better` (N, groups) say so, else `old`."""
    return map_scales(lambda a, b: array_module(better).where(better, a, b), new, old)


def step_of(grid: Grid, scales: Scales) -> Array:
    """What all levels of a group are multiples of, one number per group. Raises UserError for grids where there is no such."""
    if isinstance(scales, tuple):
        if scales._fields != ("step", "zero"):
            steps = "more than a step per group" if scales else "no steps"
            raise UserError(
                f"{grid.name} has {steps}, so it cannot be learned: use q4_0, q8_0 or a uniform grid"
            )
        return scales.step
    return scales


def step_and_minimum_of(grid: Grid, scales: Scales) -> tuple[Array, Array]:
    """The step and the lowest level of each group. Raises UserError for grids that store no such level."""
    if getattr(scales, "_fields", ()) != ("step", "minimum"):
        raise UserError(
            f"{grid.name} stores no offset beside the step, so none can be learned: use q4_1, or scales learned"
        )
    return scales


def stretched(grid: Grid, scales: Scales, factors: Array) -> Scales:
    """Scales whose steps are `factors` times as large, rounded to what the grid stores; raises what `step_of` raises."""
    step = _stored(grid, step_of(grid, scales) * factors)
    return scales._replace(step=step) if isinstance(scales, tuple) else step


def stretched_and_shifted(grid: Grid, scales: Scales, factors: Array, offsets: Array) -> Scales:
    """As `stretched`, and every level `offsets` of the old steps higher; raises what `step_and_minimum_of` raises."""
    step, minimum = step_and_minimum_of(grid, scales)
    return type(scales)(_stored(grid, step * factors), _stored(grid, minimum + step * offsets))


def _stored(grid: Grid, numbers: Array) -> Array:
    if getattr(grid, "scale_type", "float16") != "float16":
        return numbers
    return rounded_to_float16(
        array_module(numbers).clip(numbers, -LARGEST_FLOAT16, LARGEST_FLOAT16)
    )
