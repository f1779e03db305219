"""Rotary positions (Su et al. 2021, arXiv 2104.09864): rotate channel pair i at position t by the
angle t / base^(2i/C).

The dot product of a query and a key rotated this way depends only on their distance. Pairs are
adjacent channels (2i, 2i+1), as in GGUF's llama files. Hugging Face files pair i with i + C/2,
which is a permutation of the projection's rows.
"""

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np


class Rotary:
    """Tables of cosines and sines that grow with the longest sequence. Threads may share them."""

    def __init__(self, head_dim: int, base: float) -> None:
        pairs = np.arange(0, head_dim, 2, dtype=np.float64)
        self.frequencies = base ** (-pairs / head_dim)  # (C/2,) radians per position
        self._tables: dict[tuple, tuple[Array, Array]] = {}

    def tables(self, length: int, like: Array) -> tuple[Array, Array]:
        """Return cosine and sine, (length, C/2) each, of positions 0, 1, ... with the device and
        dtype of `like`.
        """
        xp = array_module(like)
        key = (xp, like.dtype)
        tables = self._tables.get(key)
        if tables is None or tables[0].shape[0] < length:
            angles = np.arange(length)[:, None] * self.frequencies  # (length, C/2) float64
            tables = (
                xp.asarray(np.cos(angles), like.dtype),
                xp.asarray(np.sin(angles), like.dtype),
            )
            self._tables[key] = tables
        cosine, sine = tables  # the local variable: another thread may have stored a shorter table
        return cosine[:length], sine[:length]
