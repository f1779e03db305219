"""In which numbers a training step multiplies: float32, or fewer bits, which a GPU multiplies many
times as fast.

    float32     24 bits, as everywhere else
    tf32        float32 arrays, of whose numbers the GPU's tensor cores see 11 bits when they multiply
    bfloat16    factors rounded to 8 bits, with float32's range
    float16     factors rounded to 11 bits; what is below 6e-8 becomes 0, so losses are scaled up (training/loss_scale.py)

Only factors of products are rounded. Sums are float32, and so is everything else: results, master
weights, moments, norms, softmax, losses. With 16 bits the products with weights are of that kind,
and those within attention are TF32.

A product is two steps, so that a factor is rounded once and kept short for the backward pass:

    matmul(operand(x), operand(w).T)

Only training multiplies so, within `matmul_precision`: evaluation and decoding are in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from minimtp import kernels
from minimtp.backend import Array, Device
from minimtp.errors import UserError

SIXTEEN_BITS = ("bfloat16", "float16")
FIRST_WITH_TF32 = 80  # compute capability, times ten

_chosen = "float32"  # one for the process: only a GPU has others, and there one thread trains


def require(precision: str, device: Device) -> None:
    """Raise UserError unless the device can multiply so."""
    if precision == "float32":
        return
    if device.name == "cpu":
        raise UserError(
            f"precision {precision} needs a GPU, not the CPU: use --device cuda, or precision float32"
        )
    if precision != "float16" and int(device.xp.cuda.Device().compute_capability) < FIRST_WITH_TF32:
        raise UserError(
            f"precision {precision} needs a GPU of compute capability 8.0 or later: use float16 or float32"
        )


@contextmanager
def matmul_precision(precision: str, device: Device) -> Iterator[None]:
    """Within, products of float32 arrays are computed in this precision. Raises UserError as
    `require`.
    """
    global _chosen
    if precision == "float32":
        yield
        return
    require(precision, device)
    from minimtp.kernels.cuda import gemm as cuda_matrix

    before, _chosen = _chosen, precision
    try:
        with cuda_matrix.tf32(device.xp):
            yield
    finally:
        _chosen = before


def operand(x: Array) -> Array:
    """x (M, K) as a product sees it."""
    if _chosen in SIXTEEN_BITS and x.dtype.char == "f":
        from minimtp.kernels.cuda import gemm as cuda_matrix

        return cuda_matrix.rounded(x, _chosen)
    return x


def matmul(a: Array, b: Array) -> Array:
    """a (M, K) @ b (K, N), factors -> (M, N), of 16-bit factors in float32."""
    if _chosen == "float32" or a.dtype.char == "d":
        return kernels.for_array(a).matmul(a, b)
    from minimtp.kernels.cuda import gemm as cuda_matrix

    return cuda_matrix.multiply(a, b)
