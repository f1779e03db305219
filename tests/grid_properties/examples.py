"""Grids and fixed weights on which the properties are checked."""

import pytest

from minimtp.backend import numpy as np
from minimtp.quant.grids import BlockGrid, grid_named
from tests.grid_properties.catalogue import PROPERTIES, NotApplicable, searched

NAMES = [
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q4_k",
    "q6_k",
    "nf4-g16",
    "nf4-channel-f32",
    "ternary-tensor",
    "ternary-g8",
    "int4-restricted-g32",
    "int4-full-mid-g32",
    "int4-ggml-signed-g32",
    "int4-affine-g32",
    "int8-affine-channel",
    "int8-restricted-tensor-f32",
    "int2-ggml-signed-g8-f32",
    "int3-affine-g30-f32",
    "int2-restricted-g5",
]
GRIDS = [grid_named(name) for name in NAMES]


def examples(grid):
    """Yield (name, x) pairs with weights that take different branches, the same in each run."""
    rng = np.random.default_rng(7)
    block = isinstance(grid, BlockGrid)
    for columns in (512,) if searched(grid) else (64, 96) if block else (1, 33, 64, 70):
        normal = rng.standard_normal((2, columns)).astype(np.float32)
        halves = rng.integers(-16, 17, normal.shape).astype(np.float32) / np.float32(2)
        halves[:, 0] = -8  # the step of the 4-bit grids is 1, so halves are ties
        odd = rng.integers(-5, 26, normal.shape).astype(np.float32) / np.float32(2)
        # The step from minimum to maximum is 1, and both lie halfway between two integers.
        odd[:, :2] = np.float32([-2.5, 12.5])[:columns]
        blocks = np.repeat(rng.standard_normal((2, -(-columns // 8))), 8, axis=1)[:, :columns]
        step = rng.uniform(1, 2, (2, 1)).astype(np.float16).astype(np.float32)
        ties = rng.integers(2 * grid.min_code, 2 * grid.max_code + 1, normal.shape).astype(
            np.float32
        ) / np.float32(2)
        ties[:, :2] = np.float32([grid.min_code, grid.max_code])[:columns]
        yield f"normal {columns}", normal
        yield f"ties of a random step {columns}", ties * step
        yield f"normal, tiny {columns}", normal * np.float32(1e-6)
        yield f"normal, large {columns}", normal * np.float32(1e3)
        yield (
            f"bfloat16 {columns}",
            (normal.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
        )
        yield f"halves {columns}", halves
        yield f"halves at both ends {columns}", odd
        yield f"lattice {columns}", rng.integers(-254, 255, normal.shape).astype(np.float32)
        yield f"positive {columns}", np.abs(normal) + np.float32(1)
        yield f"negative {columns}", -np.abs(normal) - np.float32(1)
        yield f"constant in groups of 8 {columns}", blocks.astype(np.float32)
        yield (
            f"groups of very different sizes {columns}",
            (normal * 10.0 ** (3 * blocks)).astype(np.float32).clip(-1e4, 1e4),
        )
        yield f"some zeros {columns}", normal * (rng.random(normal.shape) < 0.3)
        yield (
            f"one group of zeros {columns}",
            np.where(np.arange(columns) < columns // 2, np.float32(0), normal),
        )


def broken_properties(grid, among=PROPERTIES):
    """Return {property name: example and error} for each property that the grid breaks.

    Every property that applies to the grid is checked on the examples. Any error counts as broken.
    """
    broken = {}
    for one in among:
        if not one.about(grid):
            continue
        for name, x in examples(grid):
            try:
                with np.errstate(all="ignore"):
                    one.check(grid, x, np.random.default_rng(3))
            except NotApplicable:
                continue
            except (Exception, pytest.fail.Exception) as error:
                broken[one.name] = f"{name}: {type(error).__name__}: {error}"
                break
    return broken
