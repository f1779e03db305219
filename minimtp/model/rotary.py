"""Rotary positions (Su et al. 2021, arXiv 2104.09864): channel pair i of position t is turned by the angle t / base^(2i/C).

A query and a key turned this way have a product that depends on their distance only. Pairs are adjacent channels (2i, 2i+1),
as in GGUF's llama files; Hugging Face files pair i with i + C/2, which is a permutation of the projection's rows.
"""

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np


class Rotary:
    """Tables of cosines and sines, grown when a longer sequence comes; threads may share them."""

    def __init__(self, head_dim: int, base: float) -> None:
        self.frequencies = base ** (
            -np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        )  # (C/2,) radians a position
        self._tables: dict[tuple, tuple[Array, Array]] = {}

    def tables(self, length: int, like: Array) -> tuple[Array, Array]:
        """cosine and sine (length, C/2) for positions 0, 1, ..., on the device and in the dtype of `like`."""
        xp = array_module(like)
        key = (xp, like.dtype)
        tables = self._tables.get(key)
        if tables is None or tables[0].shape[0] < length:
            angles = (
                np.arange(length)[:, None] * self.frequencies
            )  # (length, C/2), float64: exact enough to share
            tables = self._tables[key] = (
                xp.asarray(np.cos(angles), like.dtype),
                xp.asarray(np.sin(angles), like.dtype),
            )
        cosine, sine = tables  # not looked up again: another thread may have stored shorter ones
        return cosine[:length], sine[:length]
