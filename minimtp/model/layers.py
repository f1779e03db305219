"""The building blocks: a projection, a token table, a normalization."""

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.engine.fused import EmbeddingLookup, LinearMatMul, RMSNormalize
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter, Tensor

Rng = (
    np.random.Generator | None
)  # None: the first weights are whatever the memory holds, for a model that is loaded


class Linear(Module):
    """y = x Wᵀ: (..., inputs) -> (..., outputs), without bias. A row of `weight` belongs to one output.

    The weights start normally distributed with standard deviation 1 / sqrt(inputs), which keeps the scale of the signal, or
    at zero: a product whose result is added to its input then starts as if it were not there, and is trained in.
    """

    def __init__(self, inputs: int, outputs: int, rng: Rng, start_at_zero: bool = False) -> None:
        self.weight = Parameter(
            _normal(rng, (outputs, inputs), 0.0 if start_at_zero else inputs**-0.5)
        )

    def __call__(self, x: Tensor) -> Tensor:
        return LinearMatMul().apply(x, self.weight)


class Embedding(Module):
    """tokens (B, T) -> their rows of `weight` (vocabulary, width): (B, T, width).

    The table starts with standard deviation 0.1: as a tied output it then gives logits of about 0.1 sqrt(width).
    """

    def __init__(self, vocabulary: int, width: int, rng: Rng) -> None:
        self.weight = Parameter(_normal(rng, (vocabulary, width), 0.1))

    def __call__(self, tokens: Array) -> Tensor:
        return EmbeddingLookup(tokens).apply(self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """The table used the other way round, as a tied output: (..., width) -> (..., vocabulary)."""
        return LinearMatMul().apply(hidden, self.weight)


class RMSNorm(Module):
    """Each row divided by its root mean square, times a learned `weight` (width,)."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.weight = Parameter(np.ones(width, np.float32))
        self.epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return RMSNormalize(self.epsilon).apply(x, self.weight)


def _normal(rng: Rng, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    if rng is None:
        return np.empty(shape, np.float32)
    return (rng.standard_normal(shape) * deviation).astype(np.float32)
