"""Scales, whatever a grid keeps of them: one array (N, groups), or a named tuple of such arrays.

Methods that choose scales group by group take parts of them, put parts together and choose between two; here once for both.
"""

from collections.abc import Callable

from minimtp.backend import array_module
from minimtp.quant.grids_base import Array, Scales


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
