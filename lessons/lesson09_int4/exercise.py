"""Exercises of lesson 9. Fill in the bodies, then run:

pytest --mine tests/kernels/test_integer_products.py tests/kernels/matrices/test_panels.py
"""

from minimtp.backend import aligned_zeros  # noqa: F401  (starts at a cache line)
from minimtp.backend import numpy as np  # noqa: F401  (for your functions)
from minimtp.kernels.cpu.matrices.panels import by_panel  # noqa: F401  (pads, and divides into panels)


def group_sums(codes, packed):
    """Activation codes int8 (T, K) and packed weights uint8 (N, K/32, 16) -> int32 (T, N, K/32).

    For each group of 32, the sum of (c - 8) * q. Byte j holds c of weight j of the group in its low
    half, and c of weight j + 16 in its high half.
    """
    raise NotImplementedError(
        "lesson 9: split each byte into two codes, multiply by the inputs, and sum over each group"
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
