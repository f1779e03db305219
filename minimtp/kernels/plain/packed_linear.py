"""Matrix products in plain array code. Training multiplies two float matrices. Decoding multiplies
with prepared weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from minimtp.backend import Array, array_module
from minimtp.kernels.ggml import blocks as ggml
from minimtp.kernels.ggml.five_bits import unpack_q5_0, unpack_q5_1
from minimtp.kernels.plain.quantize import fake_quantize_activations


def matmul(a: Array, b: Array) -> Array:
    """a @ b for one pair of matrices or for B pairs. Transposed views are accepted.

    a (M, K), b (K, N) -> (M, N), or a (B, M, K), b (B, K, N) -> (B, M, N).
    """
    return a @ b


class PreparedMatrix(Protocol):
    """A matrix laid out for `kernel.linear`. Each set of kernels (plain, CPU, CUDA) has its own
    class.
    """

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Prepared:
    """A weight matrix ready for `linear`. Here quantized weights are decoded once and stored as
    floats.
    """

    weight: Array  # (N, K)
    rounding: Callable[[Array], Array] | None = None  # `linear` rounds its inputs (T, K) with this

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        return self.weight.shape[1]

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


def prepare_f32(weight: Array) -> Prepared:
    """Prepare a float matrix (N, K) for `linear`."""
    return Prepared(weight)


def prepare_f16(numbers: Array) -> Prepared:
    """Prepare a float16 matrix, given as bytes uint8 (N, 2K), for `linear`, which computes in
    float32.
    """
    return Prepared(array_module(numbers).ascontiguousarray(numbers).view("<f2").astype("float32"))


def prepare_q4_0(blocks: Array) -> Prepared:
    """Prepare Q4_0 blocks, uint8 (N, K/32 * 18), for `linear`."""
    return Prepared(ggml.decode(*ggml.unpack_q4_0(blocks)), fake_quantize_activations)


def prepare_q4_1(blocks: Array) -> Prepared:
    """Prepare Q4_1 blocks, uint8 (N, K/32 * 20), for `linear`."""
    return Prepared(ggml.decode_with_minimum(*ggml.unpack_q4_1(blocks)), fake_quantize_activations)


def prepare_q5_0(blocks: Array) -> Prepared:
    """Prepare Q5_0 blocks, uint8 (N, K/32 * 22), for `linear`."""
    return Prepared(ggml.decode(*unpack_q5_0(blocks)), fake_quantize_activations)


def prepare_q5_1(blocks: Array) -> Prepared:
    """Prepare Q5_1 blocks, uint8 (N, K/32 * 24), for `linear`."""
    return Prepared(ggml.decode_with_minimum(*unpack_q5_1(blocks)), fake_quantize_activations)


def prepare_q8_0(blocks: Array) -> Prepared:
    """Prepare Q8_0 blocks, uint8 (N, K/32 * 34), for `linear`."""
    return Prepared(ggml.decode(*ggml.unpack_q8_0(blocks)), fake_quantize_activations)


def linear(x: Array, prepared: Prepared, out: Array | None = None) -> Array:
    """y = x Wᵀ for x (T, K) and a prepared W (N, K) -> (T, N), written to `out` if it is given.

    If the weights are quantized, the inputs are quantized first. A row's result may depend on the
    number of rows, because BLAS chooses its order of addition by the shape. The compiled `linear`
    guarantees that it does not.
    """
    if prepared.rounding is not None:
        x = prepared.rounding(x)
    # Use the same memory layout as training. With another layout, BLAS may add in another order.
    weight = prepared.weight.astype(x.dtype, copy=False)
    return array_module(x).matmul(x, weight.T, out=out)


def embedding(prepared: Prepared, tokens: Array) -> Array:
    """Return the rows of a prepared matrix (N, K) for tokens (T,) as a new float array (T, K).

    A tied output matrix is also the table of token embeddings. Raises IndexError if a token is N or
    more.
    """
    return prepared.weight[tokens]


def embedding_backward(grad: Array, tokens: Array, out: Array) -> None:
    """Add row i of grad (N, D) to row tokens[i] of out (V, D). Tokens (N,) may repeat."""
    array_module(grad).add.at(out, tokens, grad)
