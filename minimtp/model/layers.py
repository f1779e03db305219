"""The building blocks of a model: a linear layer, a token table and a normalization."""

from types import ModuleType

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.fused import EmbeddingLookup, LinearMatMul, RMSNormalize
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter, Tensor
from minimtp.kernels.plain.packed_linear import PreparedMatrix
from minimtp.model.matrix import Matrix, TokenTable

# Initial weights are sampled from a random generator. None leaves them uninitialized, for a model
# that is loaded from a file.
Rng = np.random.Generator | None


class FloatMatrix(Matrix):
    """A matrix in full precision: `weight` (N, K)."""

    weight: Parameter

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape

    @property
    def stored(self) -> Array:
        return self.weight.data

    def prepare(
        self, kernel: ModuleType, first: int = 0, last: int | None = None
    ) -> PreparedMatrix:
        weight = self.weight.data[:, first:last]
        return kernel.prepare_f32(array_module(weight).ascontiguousarray(weight))

    def matmul_rows(self, x: Tensor, rows: Array) -> Tensor:
        rows = array_module(self.weight.data).asarray(rows)
        return LinearMatMul().apply(x, EmbeddingLookup(rows).apply(self.weight))

    def select(self, rows: Array) -> "Linear":
        matrix = Linear(self.shape[1], len(rows), None)
        matrix.weight.data = self.weight.data[array_module(self.weight.data).asarray(rows)]
        return matrix

    def is_exact_on(self, kernel: ModuleType) -> bool:
        return True

    def stays_packed_on(self, kernel: ModuleType) -> bool:
        return False


class Linear(FloatMatrix):
    """y = x Wᵀ without bias: (..., inputs) -> (..., outputs).

    `weight` (outputs, inputs) starts with standard deviation 1 / sqrt(inputs), which keeps the
    scale of the signal.
    zero_init: start at zero instead. A residual branch that ends in such a layer starts as the
    identity.
    """

    def __init__(self, inputs: int, outputs: int, rng: Rng, zero_init: bool = False) -> None:
        deviation = 0.0 if zero_init else inputs**-0.5
        self.weight = Parameter(_normal(rng, (outputs, inputs), deviation))

    def __call__(self, x: Tensor) -> Tensor:
        return LinearMatMul().apply(x, self.weight)


class Embedding(FloatMatrix, TokenTable):
    """tokens (B, T) -> their rows of `weight` (V, D): (B, T, D).

    The table starts with standard deviation 0.1. As a tied output it then gives logits of about 0.1
    sqrt(D).
    """

    def __init__(self, vocabulary_size: int, hidden_size: int, rng: Rng) -> None:
        self.weight = Parameter(_normal(rng, (vocabulary_size, hidden_size), 0.1))

    def __call__(self, tokens: Array) -> Tensor:
        return EmbeddingLookup(tokens).apply(self.weight)

    def rows(self, tokens: Array) -> Array:
        return self.weight.data[tokens]

    def logits(self, hidden: Tensor) -> Tensor:
        """Use the table as a tied output: (..., D) -> (..., V)."""
        return LinearMatMul().apply(hidden, self.weight)


class RMSNorm(Module):
    """Divide each row by its root mean square, then multiply by a learned `weight` (D,)."""

    def __init__(self, hidden_size: int, norm_eps: float) -> None:
        self.weight = Parameter(np.ones(hidden_size, np.float32))
        self.norm_eps = norm_eps

    def __call__(self, x: Tensor) -> Tensor:
        return RMSNormalize(self.norm_eps).apply(x, self.weight)


def _normal(rng: Rng, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    if rng is None:
        return np.empty(shape, np.float32)
    return (rng.standard_normal(shape) * deviation).astype(np.float32)
