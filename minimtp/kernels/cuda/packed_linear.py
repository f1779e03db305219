"""Matrix products of a decoding step on the GPU: up to 16 rows of activations share one read of the
weights.

`products.cu` has the kernels.
"""

from dataclasses import dataclass

from minimtp.backend import Array, array_module, numpy
from minimtp.kernels.cuda.source import blocks_for, launch, whole
from minimtp.kernels.ggml import blocks as ggml
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

    weight: float32 or float16 (N, K), or codes uint8 (N, K/32 * 16) for Q4_0, int8 (N, K) for Q8_0.
    scales: None, or float16 (N, K/32).
    """

    kind: str  # "f32", "f16", "q4_0" or "q8_0"
    weight: Array
    scales: Array | None
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (0 if self.scales is None else self.scales.nbytes)


def prepare_f32(weight):
    return Prepared("f32", _aligned(weight), None, *weight.shape)


def prepare_f16(numbers):
    weight = whole(numbers)[0].view(numpy.float16)
    return Prepared("f16", _aligned(weight), None, *weight.shape)


def prepare_q4_0(blocks):
    return _prepared("q4_0", blocks, ggml.Q4_0_BLOCK_BYTES)


def prepare_q8_0(blocks):
    return _prepared("q8_0", blocks, ggml.Q8_0_BLOCK_BYTES)


def _prepared(kind: str, blocks: Array, block_bytes: int) -> Prepared:
    xp, rows = array_module(blocks), blocks.shape[0]
    parts = blocks.reshape(rows, -1, block_bytes)
    scales = xp.ascontiguousarray(parts[:, :, :2]).view(numpy.float16)[..., 0]
    codes = _aligned(parts[:, :, 2:]).reshape(rows, -1)
    return Prepared(kind, codes, xp.ascontiguousarray(scales), rows, parts.shape[1] * GROUP)


def _aligned(array):
    """Return the array contiguous and aligned for loads of whole vectors, copied if necessary."""
    (array,) = whole(array)
    return array.copy() if array.data.ptr % ALIGNMENT else array


def embedding(prepared, tokens):
    weight = prepared.weight[tokens]
    if prepared.scales is None:
        return weight.astype(numpy.float32, copy=False)
    if prepared.kind == "q4_0":
        codes = ggml.codes_from_nibbles(weight.reshape(len(weight), -1, GROUP // 2)) - numpy.int8(8)
    else:
        codes = weight.view(numpy.int8)
    return ggml.decode(codes, prepared.scales[tokens].astype(numpy.float32))


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
        inputs = (*_quantized(x), prepared.weight, prepared.scales)
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
