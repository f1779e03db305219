"""Exercises of lesson 4. Fill in the bodies, then run:

pytest --mine tests/decode/sampling/test_sampling.py tests/decode/test_cache.py
"""

from dataclasses import dataclass
from types import ModuleType

from minimtp.arguments import check_fields
from minimtp.backend import Array, aligned_zeros, array_module, numpy
from minimtp.backend import numpy as np
from minimtp.decode.sampling.params import TEMPERATURE, TOP_K, TOP_P, _finite_maxima


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

    keys: (L, G, C, S), values: (L, S, G, C), arrays of `dtype`. Positions from `length` on are
    meaningless.
    heads: G, the number of key/value heads (fewer than query heads in grouped-query attention).
    """

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
        self.keys = aligned_zeros((layers, heads, head_dim, context_length), dtype, xp)
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
        """Return views of all keys (G, C, S) and values (S, G, C) of one layer. Positions before
        `length` are committed.
        """
        return self._layers[layer]

    def write(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Write (T, G, C) keys and values after the committed rows and return the views of `layer`.

        This does not change `length`. Every layer of a forward pass writes at the same positions.
        Then `extend(T)` counts the rows.
        Raises ValueError if the rows do not fit.
        """
        raise NotImplementedError("lesson 4: write the keys and values after the committed rows")

    def extend(self, rows: int) -> None:
        """Count `rows` rows, which every layer has written, as part of the cache. Raises ValueError
        if they do not fit.
        """
        raise NotImplementedError("lesson 4: add the rows to the length, or raise an error")

    def truncate(self, length: int) -> None:
        """Drop the rows from `length` on. Raises ValueError if there are fewer rows than that."""
        raise NotImplementedError("lesson 4: lower the length, or raise an error")


@dataclass(frozen=True)
class SamplingParams:
    """How logits become probabilities. The default is the model's own distribution.

    temperature: 0 (greedy), or from 1e-6 to 1e6. top_k: number of most likely tokens to keep, 0
    keeps all. top_p: probability that the kept tokens must reach together, 1 keeps all.

    Logits up to a magnitude of 1e25 do not overflow at any of these temperatures, also after a
    penalty. Larger ones may, and then count as not finite: sampling raises UserError.
    Raises UserError if a setting is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P)

    @property
    def greedy(self) -> bool:
        """Whether one token gets probability 1, so that no random numbers are needed."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def truncates(self) -> bool:
        """Whether top-k or top-p may exclude tokens."""
        return self.top_k > 0 or self.top_p < 1

    def scores(self, logits: Array) -> Array:
        """Return the logarithms of the probabilities, up to a constant per row: (R, V) -> (R, V).

        An excluded token has -inf.
        """
        xp = array_module(logits)
        if self.greedy:
            scores = xp.full_like(logits, -xp.inf)
            scores[xp.arange(len(logits)), logits.argmax(axis=-1)] = 0  # argmax: ties to the lowest
            return scores
        with np.errstate(over="ignore"):
            scores = logits if self.temperature == 1 else logits / self.temperature
        if 0 < self.top_k < scores.shape[-1] or self.top_p < 1:
            scores = xp.where(self._keeps(scores), scores, -xp.inf)
        return scores

    def probabilities(self, logits: Array) -> Array:
        """Return the probabilities (R, V), float64, of logits (R, V) of any float type.

        Raises UserError if the maximum of a row is not finite, because then the model is broken.
        """
        xp = array_module(logits)
        if self.greedy:
            _finite_maxima(logits)
            return xp.exp(self.scores(logits), dtype=xp.float64)
        return softmax(self.scores(logits))

    def _keeps(self, scores: Array) -> Array:
        """Return which tokens remain after top-k and top-p: scores (R, V) -> bool (R, V)."""
        raise NotImplementedError(
            "lesson 4: rank the tokens, apply top-k and top-p to the ranks, map back to tokens"
        )
