"""Exercises of lesson 4. Fill in the bodies, then run:

pytest --mine tests/decode/sampling/test_sampling.py tests/decode/test_cache.py
"""

from types import ModuleType

from minimtp.backend import Array, aligned_zeros, array_module, numpy
from minimtp.backend import numpy as np  # noqa: F401  (for your functions)
from minimtp.decode.sampling.params import _finite_maxima  # noqa: F401  (for your softmax)
from minimtp.kernels.plain.cache import KEY_PANEL, key_panels


def softmax(scores: Array) -> Array:
    """Return the softmax (R, V), float64, of scores (R, V).

    Exponentials are computed in the scores' precision, sums in float64.
    Raises UserError if the maximum of a row is not finite.
    """
    raise NotImplementedError(
        "lesson 4: return exp(scores - _finite_maxima(scores)), normalized to sum to 1"
    )


class KeyValueCache:
    """Keys and values of `layers` attention layers for up to `context_length` positions.

    keys: (L, G, N, C, P), values: (L, S, G, C), arrays of `dtype`. Position s is place s % P of
    panel s // P. Positions from `length` on are meaningless.
    heads: G, the number of key/value heads (fewer than query heads in grouped-query attention).
    """

    steps: Array | None = None  # only of int8 caches

    def __init__(
        self,
        layers: int,
        context_length: int,
        heads: int,
        head_dim: int,
        dtype: str = "float32",
        xp: ModuleType = numpy,
    ) -> None:
        # Zeros, not empty: a kernel may read rows beyond the length and mask them, and NaN * 0 is
        # NaN.
        panels = key_panels(context_length)
        self.keys = aligned_zeros((layers, heads, panels, head_dim, KEY_PANEL), dtype, xp)
        self.values = aligned_zeros((layers, context_length, heads, head_dim), dtype, xp)
        self.context_length = context_length
        self.length = 0
        # Slicing takes as long as a small kernel, so each layer's view is made once.
        self._layers = [(self.keys[layer], self.values[layer]) for layer in range(layers)]

    def clone(self) -> "KeyValueCache":
        """Return an empty cache of the same size."""
        layers, _, heads, head_dim = self.values.shape
        xp, dtype = array_module(self.values), self.values.dtype
        return KeyValueCache(layers, self.context_length, heads, head_dim, dtype, xp)

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes that the cache occupies, used or not."""
        return self.keys.nbytes + self.values.nbytes

    def layer(self, layer: int) -> tuple[Array, Array]:
        """Return views of all keys (G, N, C, P) and values (S, G, C) of one layer. Only positions
        before `length` hold rows.
        """
        return self._layers[layer]

    def write(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Write (T, G, C) keys and values after the `length` rows. Return the views of `layer`.

        This does not change `length`. Every layer of a forward pass writes at the same positions.
        Then `extend(T)` counts the rows.
        Raises ValueError if the rows do not fit.
        """
        raise NotImplementedError("lesson 4: write keys and values after the `length` rows")

    def extend(self, rows: int) -> None:
        """Count `rows` rows, which every layer has written, as part of the cache. Raises ValueError
        if they do not fit.
        """
        raise NotImplementedError("lesson 4: add the rows to the length, or raise an error")

    def truncate(self, length: int) -> None:
        """Drop the rows from `length` on. Raises ValueError if there are fewer rows than that."""
        raise NotImplementedError("lesson 4: lower the length, or raise an error")


def truncate(scores: Array, top_k: int, top_p: float) -> Array:
    """Return scores (R, V) with -inf for all tokens that are not kept.

    Of each row, the top_k highest scores are kept (0, or at least V: all), and of these the highest
    until their probabilities, the softmax of the kept scores, reach top_p together (1: all). Ties
    go to the lowest token, and the highest score is always kept. So are scores that are NaN, so
    that sampling detects them. If all are kept, the result is `scores`.
    """
    raise NotImplementedError(
        "lesson 4: rank the tokens, apply top-k and top-p to the ranks, map back to tokens"
    )
