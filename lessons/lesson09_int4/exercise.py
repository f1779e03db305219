"""Exercises of lesson 9. Fill in the bodies, then run:

pytest --mine tests/kernels/matrices/test_panels.py
"""

from minimtp.backend import aligned_zeros  # noqa: F401  (starts at a cache line)
from minimtp.backend import numpy as np  # noqa: F401  (for your functions)


def by_panel(matrix):
    """(N, K) -> (ceil(N / 32), 32, K), padded with rows of zeros."""
    raise NotImplementedError(
        "lesson 9: pad with rows of zeros with the dtype of the matrix, and reshape into panels"
    )


def q4_0_steps(codes):
    """Codes int8 (N, K) in -8..7 -> uint8 (panels, 32, K/32, 4 steps, 4 bytes). Each byte holds
    two codes, each with 8 added.
    """
    raise NotImplementedError(
        "lesson 9: split K into (K/32, 4 steps, low or high, 4 bytes); which axis makes one byte?"
    )


def quantized_panels(scales, packed):
    """Scales (N, K/32) and packed (panels, 32, K/32, steps, 4) uint8 -> (panels, K/32 * group
    bytes).

    Each group is its scales, then its steps.
    """
    raise NotImplementedError(
        "lesson 9: which axes have to be swapped to make outputs adjacent in memory?"
    )
