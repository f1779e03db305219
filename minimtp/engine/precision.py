"""The precision of the matrix products in a training step: float32, or fewer bits, with which a GPU
is much faster, and many CPUs are twice as fast.

    float32     24 bits, as everywhere else
    tf32        float32 arrays; the GPU's tensor cores use 11 bits of each number
    bfloat16    operands rounded to 8 bits, with float32's range; also on the CPU
    float16     operands rounded to 11 bits; numbers below 6e-8 become 0, so losses are scaled up
                (training/loss_scale.py)

Only the operands of matrix products are rounded. Everything else is float32: sums, results, master
weights, moments, norms, softmax, losses. With bfloat16 and float16, products with weights use 16
bits, and products inside attention use TF32 on a GPU and float32 on the CPU.

Every CPU can train in bfloat16, so a run can continue on another machine. It is faster only with
AMX on Intel's processors and AVX-512 BF16 on AMD's (`kernels/cpu/matrices/bfloat16/`). Other
processors round the same operands and multiply them in float32.

A product takes two steps, so that a GPU rounds each operand once and stores it in 16 bits for the
backward pass:

    matmul(operand(x), operand(w).T)

The CPU rounds operands while it copies them for the product, which takes hardly any time.

Only training uses fewer bits, within `matmul_precision`. Evaluation and decoding use float32.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from minimtp import kernels
from minimtp.backend import Array, Device, array_module
from minimtp.backend import numpy as np
from minimtp.errors import UserError

SIXTEEN_BITS = ("bfloat16", "float16")
FIRST_WITH_TF32 = 80  # compute capability, times ten

_chosen = "float32"  # for the whole process, because the shards of a batch are threads


def require(precision: str, device: Device) -> None:
    """Raise UserError if the device does not support the precision."""
    if precision == "float32" or (precision == "bfloat16" and device.name == "cpu"):
        return
    if device.name == "cpu":
        raise UserError(
            f"precision {precision} needs a GPU: use --device cuda,"
            " or precision bfloat16 or float32"
        )
    if precision != "float16" and int(device.xp.cuda.Device().compute_capability) < FIRST_WITH_TF32:
        raise UserError(
            f"precision {precision} needs a GPU of compute capability 8.0 or later: "
            "use float16 or float32"
        )


def fastest(device: Device) -> str:
    """Return "bfloat16" if it is faster on the device, else "float32"."""
    if device.name == "cpu":
        return "bfloat16" if kernels.bfloat16_instructions() else "float32"
    capability = int(device.xp.cuda.Device().compute_capability)
    return "bfloat16" if capability >= FIRST_WITH_TF32 else "float32"


@contextmanager
def matmul_precision(precision: str, device: Device) -> Iterator[None]:
    """Compute the matrix products of float32 arrays inside the block in this precision. Raises the
    errors of `require`.
    """
    global _chosen
    require(precision, device)
    before, _chosen = _chosen, precision
    try:
        with _attention_precision(precision, device):
            yield
    finally:
        _chosen = before


def _attention_precision(precision: str, device: Device) -> AbstractContextManager[None]:
    if device.name == "cpu" or precision == "float32":
        return nullcontext()
    from minimtp.kernels.cuda import gemm

    return gemm.tf32(device.xp)


def describe(precision: str, device: Device) -> str:
    """Return how a device computes in this precision, for reports."""
    if precision != "bfloat16" or device.name != "cpu":
        return precision
    if instructions := kernels.bfloat16_instructions():
        return f"bfloat16: matrix products by {instructions}, everything else in float32"
    return (
        "bfloat16: operands are rounded, but this is not faster than float32, because there are no "
        "compiled kernels with AMX or AMD's AVX-512 BF16 here"
    )


def operand(x: Array) -> Array:
    """Return x (M, K) as an operand of `matmul`. On a GPU, it is rounded to 16 bits if the
    precision has 16. On the CPU, `matmul` itself rounds it.
    """
    if _chosen in SIXTEEN_BITS and x.dtype.char == "f" and array_module(x) is not np:
        from minimtp.kernels.cuda import gemm

        return gemm.rounded(x, _chosen)
    return x


def matmul(a: Array, b: Array) -> Array:
    """Return a @ b for operands a (M, K) and b (K, N): (M, N), float32 for 16-bit operands."""
    if _chosen == "float32" or a.dtype.char == "d":
        return kernels.for_array(a).matmul(a, b)
    if array_module(a) is np:
        return kernels.for_array(a).matmul_bfloat16(a, b)
    from minimtp.kernels.cuda import gemm

    return gemm.multiply(a, b)
