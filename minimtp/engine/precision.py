"""The precision of the matrix products in a training step: float32, or fewer bits, with which a GPU
is much faster.

    float32     24 bits, as everywhere else
    tf32        float32 arrays; the GPU's tensor cores use 11 bits of each number
    bfloat16    operands rounded to 8 bits, with float32's range
    float16     operands rounded to 11 bits; numbers below 6e-8 become 0, so losses are scaled up
                (training/loss_scale.py)

Only the operands of matrix products are rounded. Everything else is float32: sums, results, master
weights, moments, norms, softmax, losses. With bfloat16 and float16, products with weights use 16
bits and products inside attention use TF32.

A product takes two steps, so that each operand is rounded once and stored in 16 bits for the
backward pass:

    matmul(operand(x), operand(w).T)

Only training uses fewer bits, within `matmul_precision`. Evaluation and decoding use float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from minimtp import kernels
from minimtp.backend import Array, Device
from minimtp.errors import UserError

SIXTEEN_BITS = ("bfloat16", "float16")
FIRST_WITH_TF32 = 80  # compute capability, times ten

_chosen = "float32"  # for the whole process: only GPUs use others, and on a GPU one thread trains


def require(precision: str, device: Device) -> None:
    """Raise UserError if the device does not support the precision."""
    if precision == "float32":
        return
    if device.name == "cpu":
        raise UserError(
            f"precision {precision} needs a GPU: use --device cuda, or precision float32"
        )
    if precision != "float16" and int(device.xp.cuda.Device().compute_capability) < FIRST_WITH_TF32:
        raise UserError(
            f"precision {precision} needs a GPU of compute capability 8.0 or later: "
            "use float16 or float32"
        )


@contextmanager
def matmul_precision(precision: str, device: Device) -> Iterator[None]:
    """Compute the matrix products of float32 arrays inside the block in this precision. Raises the
    errors of `require`.
    """
    global _chosen
    if precision == "float32":
        yield
        return
    require(precision, device)
    from minimtp.kernels.cuda import gemm

    before, _chosen = _chosen, precision
    try:
        with gemm.tf32(device.xp):
            yield
    finally:
        _chosen = before


def operand(x: Array) -> Array:
    """Return x (M, K) as an operand of `matmul`, rounded to 16 bits if the precision has 16."""
    if _chosen in SIXTEEN_BITS and x.dtype.char == "f":
        from minimtp.kernels.cuda import gemm

        return gemm.rounded(x, _chosen)
    return x


def matmul(a: Array, b: Array) -> Array:
    """Return a @ b for operands a (M, K) and b (K, N): (M, N), float32 for 16-bit operands."""
    if _chosen == "float32" or a.dtype.char == "d":
        return kernels.for_array(a).matmul(a, b)
    from minimtp.kernels.cuda import gemm

    return gemm.multiply(a, b)
