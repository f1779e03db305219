"""Matrix products of a decoding step on the GPU: up to 16 rows of activations share one read of the
weights.

`products.cu` has the kernels.
"""

from dataclasses import dataclass

from minimtp.backend import Array, array_module, numpy
from minimtp.kernels.cuda.source import blocks_for, launch, whole
from minimtp.kernels.ggml import blocks as ggml
from minimtp.kernels.ggml.five_bits import unpack_q5_0, unpack_q5_1
from minimtp.kernels.plain.quantize import GROUP, require_whole_groups

ROWS = {1: 1, 2: 1, 4: 2, 8: 4, 16: 2}  # rows of a kernel: outputs per warp
WARPS = 4  # per block
# cuBLAS multiplies more rows faster (in prompts), but in its own order of addition.
MAX_FLOAT_ROWS = 64
ALIGNMENT = 16  # bytes of one load
VECTORS = {"f32": 4, "f16": 8}  # numbers in one load


@dataclass(frozen=True)
class Prepared:
    """A weight matrix ready for `linear`: floats, or the file's blocks with codes and scales in
    separate arrays.

    weight: float32 or float16 (N, K), or codes uint8 (N, K/32 * 16) for Q4_0 and Q4_1, int8 (N, K)
    for Q5_0, Q5_1 and Q8_0.
    scales, minima: None, or float16 (N, K/32).
    """

    kind: str  # "f32", "f16", "q4_0", "q4_1", "q5_1" or "q8_0", which also multiplies by Q5_0
    weight: Array
    scales: Array | None
    rows: int
    columns: int
    minima: Array | None = None

    @property
    def nbytes(self) -> int:
        arrays = self.weight, self.scales, self.minima
        return sum(array.nbytes for array in arrays if array is not None)


def prepare_f32(weight):
    return Prepared("f32", _aligned(weight), None, *weight.shape)


def prepare_f16(numbers):
    weight = whole(numbers)[0].view(numpy.float16)
    return Prepared("f16", _aligned(weight), None, *weight.shape)


def prepare_q4_0(blocks):
    return _prepared("q4_0", blocks, ggml.Q4_0_BLOCK_BYTES)


def prepare_q4_1(blocks):
    return _prepared("q4_1", blocks, ggml.Q4_1_BLOCK_BYTES, halves=2)


def prepare_q5_0(blocks):
    codes, scales = unpack_q5_0(blocks)
    return prepare_q8_0(ggml.pack_q8_0(codes, scales))


def prepare_q5_1(blocks):
    codes, *halves = unpack_q5_1(blocks)
    scales, minima = (half.astype(numpy.float16) for half in halves)
    return Prepared("q5_1", _aligned(codes), scales, *codes.shape, minima)


def prepare_q8_0(blocks):
    return _prepared("q8_0", blocks, ggml.Q8_0_BLOCK_BYTES)


def _prepared(kind: str, blocks: Array, block_bytes: int, halves: int = 1) -> Prepared:
    """Prepare blocks that begin with a scale, and with a minimum if there are two halves."""
    xp, rows = array_module(blocks), blocks.shape[0]
    parts = blocks.reshape(rows, -1, block_bytes)
    scales, *minima = (
        xp.ascontiguousarray(parts[:, :, at : at + 2]).view(numpy.float16)[..., 0]
        for at in range(0, 2 * halves, 2)
    )
    codes = _aligned(parts[:, :, 2 * halves :]).reshape(rows, -1)
    scales, *minima = map(xp.ascontiguousarray, (scales, *minima))
    return Prepared(kind, codes, scales, rows, parts.shape[1] * GROUP, *minima)


def _aligned(array):
    """Return the array contiguous and aligned for loads of whole vectors, copied if necessary."""
    (array,) = whole(array)
    return array.copy() if array.data.ptr % ALIGNMENT else array


def embedding(prepared, tokens):
    weight = prepared.weight[tokens]
    if prepared.scales is None:
        return weight.astype(numpy.float32, copy=False)
    if prepared.kind in ("q4_0", "q4_1"):
        codes = ggml.codes_from_nibbles(weight.reshape(len(weight), -1, GROUP // 2))
    else:
        codes = weight.view(numpy.int8)
    scales = prepared.scales[tokens].astype(numpy.float32)
    if prepared.minima is not None:
        minima = prepared.minima[tokens].astype(numpy.float32)
        return ggml.decode_with_minimum(codes, scales, minima)
    return ggml.decode(codes - numpy.int8(8) if prepared.kind == "q4_0" else codes, scales)


def quantize_activations(x):
    codes, scales, _ = _quantized(x)
    return codes, scales


def _quantized(x):
    """Return codes int8 (T, K), scales float32 (T, K/32), and the sums of the codes, int32 (T,
    K/32).
    """
    require_whole_groups(x)
    (x,), xp = whole(x), array_module(x)
    codes, groups = xp.empty(x.shape, xp.int8), (x.shape[0], x.shape[1] // GROUP)
    scales, sums = xp.empty(groups, xp.float32), xp.empty(groups, xp.int32)
    grid, size = (blocks_for(scales.size, 8),), numpy.int64(scales.size)
    launch("rounding", "quantize_activations", grid, 256, x, size, codes, scales, sums)
    return codes, scales, sums


def linear(x, prepared, out=None):
    """As in `kernels/plain`. The bits of a row do not depend on the other rows.

    Exceptions: float32 weights with more than MAX_FLOAT_ROWS rows of x, float32 weights whose K is
    not a multiple of 4, and float16 weights whose K is not a multiple of 8.
    """
    return _product(x, prepared, out, add=False)


def add_linear(x, prepared, out):
    """out += x @ W.T, in place."""
    _product(x, prepared, out, add=True)


def _product(x, prepared, out, add):
    xp, tokens = array_module(x), x.shape[0]
    if out is None:
        out = xp.empty((tokens, prepared.rows), xp.float32)
    rows = next((rows for rows in ROWS if rows >= tokens), 16)
    in_vectors = prepared.columns % VECTORS.get(prepared.kind, 1) == 0
    if not in_vectors or (prepared.kind == "f32" and tokens > MAX_FLOAT_ROWS):
        weight = prepared.weight.astype(xp.float32, copy=False)
        if add:
            out += x @ weight.T
            return out
        return xp.matmul(x, weight.T, out=out)
    grid = blocks_for(prepared.rows, WARPS * ROWS[rows]), blocks_for(tokens, rows)
    if prepared.scales is None:
        inputs = (_aligned(x), prepared.weight)
        width = prepared.columns // VECTORS[prepared.kind]
    else:
        minima = prepared.scales if prepared.minima is None else prepared.minima  # never read
        inputs = (*_quantized(x), prepared.weight, prepared.scales, minima)
        width = prepared.columns // GROUP
    launch(
        "products",
        f"linear_{prepared.kind}_{rows}",
        grid,
        32 * WARPS,
        *inputs,
        tokens,
        prepared.rows,
        width,
        int(add),
        out,
    )
    return out
