"""The catalogue: how a property of grids is stated, and what the properties share."""

from collections.abc import Callable
from dataclasses import dataclass

from minimtp.backend import numpy as np
from minimtp.quant.grids import UniformGrid

HALF_ULP_OF_FLOAT16 = 2.0**-11  # relative, of normal numbers
HALF_SUBNORMAL_FLOAT16 = 2.0**-25  # absolute
MIN_NORMAL_FLOAT16 = 2.0**-14
FLOAT32_ERROR = 8 * 2.0**-24  # relative, of up to eight operations, half an ulp each


@dataclass(frozen=True)
class GridProperty:
    """A check, the grids for which it must hold, and the grids to which it applies."""

    check: Callable  # (grid, x, rng)
    holds: Callable[[object], bool]
    about: Callable[[object], bool]

    @property
    def name(self) -> str:
        return self.check.__name__


PROPERTIES: list[GridProperty] = []


def grid_property(holds=lambda grid: True, about=lambda grid: True):
    """Add the decorated check to the catalogue."""

    def add(function):
        PROPERTIES.append(GridProperty(function, holds, about))
        return function

    return add


class NotApplicable(Exception):
    """The property does not apply to these weights."""


def given_that(condition):
    """Skip these weights unless `condition` is true."""
    if not condition:
        raise NotApplicable


def policy(grid):
    """Return the name of the rule that determines the grid's scales."""
    fixed = {
        "q4_0": "ggml-signed",
        "q8_0": "restricted",
        "q4_1": "min-max",
        "q5_0": "ggml-signed",
        "q5_1": "min-max",
        "q4_k": "searched",
        "q6_k": "searched",
    }
    return fixed.get(grid.name) or getattr(
        grid, "policy", grid.kind if not isinstance(grid, UniformGrid) else ""
    )


def searched(grid):
    return policy(grid) == "searched"


# ----------------------------------------------------------------------------- shared by properties


def arrays_of(scales):
    """Return the arrays of `scales`: one, or one for each field of a tuple."""
    return list(scales) if isinstance(scales, tuple) else [scales]


def bits(array):
    """Return dtype, shape and bytes, for bitwise comparison."""
    return array.dtype, array.shape, array.tobytes()


def columns_per_scale(grid, x):
    return getattr(grid, "columns_per_step", None) or grid.group_size or x.shape[1]


def groups_of(grid, x):
    """Return index pairs (rows, columns) of the pieces of x that share a scale."""
    if getattr(grid, "granularity", "") == "tensor":
        return [(slice(None), slice(None))]
    size = columns_per_scale(grid, x)
    return [
        (slice(i, i + 1), slice(j, j + size))
        for i in range(len(x))
        for j in range(0, x.shape[1], size)
    ]


def alone(grid, x):
    """Return index pairs of the pieces of x whose rounding does not depend on other weights.

    A piece is a tensor, a row, a group or a super-block.
    """
    if getattr(grid, "granularity", "") == "tensor":
        return [(slice(None), slice(None))]
    size = grid.group_size or x.shape[1]
    return [
        (slice(i, i + 1), slice(j, j + size))
        for i in range(len(x))
        for j in range(0, x.shape[1], size)
    ]


def is_normal(scales, scale_type):
    """Return whether every non-zero float scale is a normal number with all its mantissa bits."""
    min_normal = MIN_NORMAL_FLOAT16 if scale_type == "float16" else 2.0**-100
    return all(
        (np.abs(a[a != 0]) >= min_normal).all() for a in arrays_of(scales) if a.dtype == np.float32
    )


def opposite_extremes(x):
    """Return whether the largest magnitude occurs with both signs."""
    return (np.abs(x).max() == x.max()) and (np.abs(x).max() == -x.min()) and x.any()
