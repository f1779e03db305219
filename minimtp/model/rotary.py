"""Rotary positions (Su et al. 2021, arXiv 2104.09864): rotate channel pair i at position t by the
angle t / base^(2i/C).

The dot product of a query and a key rotated this way depends only on their distance. Pairs are
adjacent channels (2i, 2i+1), as in GGUF's llama files. Hugging Face files pair i with i + C/2,
which is a permutation of the projection's rows.

A model can be trained on short texts and then adapted to a longer context by changing its
frequencies f = base^(-2i/C):

    linear:S        f / S: every position is S times closer (Chen et al. 2023, arXiv 2306.15595)
    llama3:S:L:H:N  f / S for wavelengths 2 pi / f above N / L, f for wavelengths below N / H, and a
                    linear mixture in between, as in Llama 3.1 (N: the context of the first
                    training). Fast pairs tell neighbours apart, and keep doing so.
"""

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.errors import UserError, shown

SCALINGS = {"linear": 1, "llama3": 4}  # kind: how many numbers follow it


class Rotary:
    """Tables of cosines and sines that grow with the longest sequence. Threads may share them.

    scaling: "none", or how the frequencies are changed (see above).
    """

    def __init__(self, head_dim: int, base: float, scaling: str = "none") -> None:
        pairs = np.arange(0, head_dim, 2, dtype=np.float64)
        frequencies = base ** (-pairs / head_dim)  # (C/2,) radians per position
        self.frequencies = scaled(frequencies, scaling)
        self._tables: dict[tuple, tuple[Array, Array]] = {}

    def __getstate__(self) -> dict[str, object]:
        # A table belongs to a library of arrays, which cannot be pickled. It is computed again.
        return vars(self) | {"_tables": {}}

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


def scaled(frequencies: np.ndarray, scaling: str) -> np.ndarray:
    """Return the frequencies (C/2,), in radians per position, changed for a longer context.

    Raises UserError if `scaling` is not "none", "linear:S" or "llama3:S:L:H:N".
    """
    if scaling == "none":
        return frequencies
    kind, numbers = parse_scaling(scaling)
    factor = numbers[0]
    if kind == "linear":
        return frequencies / factor
    _, low, high, context_length = numbers
    turns = context_length * frequencies / (2 * np.pi)  # in the context of the first training
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)  # share of the original frequency
    return frequencies * (kept + (1.0 - kept) / factor)


def parse_scaling(scaling: str) -> tuple[str, list[float]]:
    """Split "llama3:8:1:4:8192" into kind and numbers. Raises UserError as `scaled` does."""
    kind, *texts = scaling.split(":")
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    valid = len(numbers) == SCALINGS.get(kind) and all(1e-9 <= n <= 1e9 for n in numbers)
    if not valid or (kind == "llama3" and not numbers[1] < numbers[2]):
        raise UserError(
            f"rope_scaling {shown(scaling)!r} is not supported (supported: none, linear:FACTOR, "
            "llama3:FACTOR:LOW:HIGH:CONTEXT with LOW below HIGH)"
        )
    return kind, numbers
