"""The interface of a weight matrix, and the size of a model's weights.

A matrix has one of three forms. Each is a `Matrix`, so decoding can lay it out for the kernels
without asking for its form.

    form            weights are stored as                   classes
    float           float32                                 Linear, Embedding
    fake-quantized  float32, rounded to the grid on use     FakeQuantizedLinear, LearnedLinear,
                                                            LinearFromStart,
                                                            FakeQuantizedEmbedding, FrozenEmbedding
    packed          bytes: codes and scales                 PackedLinear, PackedEmbedding

They are in model/layers.py, quant/qat/modules.py and quant/packed_matrix.py. Training works on
float and fake-quantized matrices, decoding on float and packed ones. `prepare_qat` and `convert`
(quant/qat/) turn one form into the next.
"""

from abc import ABC, abstractmethod
from types import ModuleType

from minimtp.backend import Array
from minimtp.engine.module import Module
from minimtp.engine.tensor import Tensor
from minimtp.kernels.plain.packed_linear import PreparedMatrix


class Matrix(Module, ABC):
    """A weight matrix W (N, K), used as y = x Wᵀ, or as a table of N tokens."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(N, K)."""

    @property
    @abstractmethod
    def stored(self) -> Array:
        """The array that holds the weights: floats (N, K), or uint8 (N, bytes per row)."""

    @abstractmethod
    def prepare(
        self, kernel: ModuleType, first: int = 0, last: int | None = None
    ) -> PreparedMatrix:
        """Lay out the columns first..last-1 for `kernel.linear`. Every call makes a new copy.

        first, last: multiples of the grid's group size. Raises TypeError if the matrix must be
        converted first.
        """

    @abstractmethod
    def matmul_rows(self, x: Tensor, rows: Array) -> Tensor:
        """x (..., K) and R row numbers, integers on the host -> x W[rows]ᵀ (..., R), with the
        rounding of this matrix.
        """

    @abstractmethod
    def select(self, rows: Array) -> "Matrix":
        """Return a copy of the R rows with these numbers as a matrix (R, K), to decode with. Raises
        TypeError if the matrix must be converted first.
        """

    @abstractmethod
    def is_exact_on(self, kernel: ModuleType) -> bool:
        """Return whether `kernel.linear` rounds weights and inputs exactly as this matrix does."""

    @abstractmethod
    def stays_packed_on(self, kernel: ModuleType) -> bool:
        """Return whether `prepare` keeps the packed codes, instead of making a second copy as
        floats.
        """


class TokenTable(Matrix):
    """A matrix whose rows can be looked up: W (V, D)."""

    @abstractmethod
    def rows(self, tokens: Array) -> Array:
        """tokens (T,) integers -> their rows (T, D), a new float array."""


def weight_bytes(model: Module) -> int:
    """Return the bytes of all weights as they are stored: 4 for a float32 number, and packed rows
    with their scales.

    An array that several modules share counts once.
    """
    indices = sum(indices.data.nbytes for _, indices in model.named_indices())
    return sum(nbytes for _, nbytes in _arrays(model)) + indices


def bits_per_weight(model: Module) -> float:
    """`weight_bytes` in bits, divided by the number of weights. 32 for a float32 model."""
    arrays = _arrays(model)
    return 8 * sum(nbytes for _, nbytes in arrays) / sum(count for count, _ in arrays)


def _arrays(model: Module) -> list[tuple[int, int]]:
    """(number of weights, bytes) of every array of weights in the model."""
    found = {
        id(parameter.data): (parameter.data.size, parameter.data.nbytes)
        for parameter in model.parameters()
    }
    for _, module in model.named_modules():
        if isinstance(module, Matrix):
            rows, columns = module.shape
            found[id(module.stored)] = (rows * columns, module.stored.nbytes)
    return list(found.values())
