"""Products of large matrices on the GPU in reduced precision, by cuBLAS: float16, bfloat16, or
float32 read as TF32.

Sums and results are float32. CuPy's own product of 16-bit operands has a 16-bit result. cuBLAS can
return it in float32, which is more precise and cannot overflow, so it is called here directly.
bfloat16 numbers are stored as their bits (uint16), because NumPy and older versions of CuPy have no
such type.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from minimtp.backend import array_module, numpy
from minimtp.kernels.cuda.source import blocks_for, launch, whole

# Constants of cuBLAS and CUDA (cublasComputeType_t, cublasGemmAlgo_t, cublasMath_t, cudaDataType).
COMPUTE_FLOAT32, COMPUTE_TF32, ANY_ALGORITHM = 68, 77, -1
MATH_TF32 = 3
FLOAT32, FLOAT16, BFLOAT16 = 0, 2, 14
TYPES = {"f": FLOAT32, "e": FLOAT16, "H": BFLOAT16}
ONE, ZERO = numpy.ones(1, numpy.float32), numpy.zeros(1, numpy.float32)


def rounded(x, precision):
    """Round x float32 half to even, to float16 (infinite beyond its range) or to the bits of
    bfloat16 (uint16).
    """
    xp = array_module(x)
    if precision == "float16":
        return x.astype(xp.float16)
    (x,), bits = whole(x), xp.empty(x.shape, xp.uint16)
    launch("rounding", "to_bfloat16", (blocks_for(x.size, 256),), 256, x, numpy.int64(x.size), bits)
    return bits


def multiply(a, b):
    """Return a (M, K) @ b (K, N), float32 (M, N). Both are float16, both bfloat16, or both float32,
    read as TF32.

    cuBLAS stores matrices by columns, so it sees our C = A B as Cᵀ = Bᵀ Aᵀ.
    """
    xp, (rows, inner), columns = array_module(a), a.shape, b.shape[1]
    out = xp.empty((rows, columns), xp.float32)
    (b, flip_b, stride_b), (a, flip_a, stride_a) = _columns(b), _columns(a)
    kind = TYPES[a.dtype.char]
    compute = COMPUTE_TF32 if kind == FLOAT32 else COMPUTE_FLOAT32
    xp.cuda.cublas.gemmEx(
        xp.cuda.device.get_cublas_handle(), flip_b, flip_a, columns, rows, inner, ONE.ctypes.data,
        b.data.ptr, kind, stride_b, a.data.ptr, kind, stride_a, ZERO.ctypes.data, out.data.ptr,
        FLOAT32, columns, compute, ANY_ALGORITHM,
    )  # fmt: skip
    return out


def _columns(x):
    """Return the matrix, whether cuBLAS must transpose it to see xᵀ, and the distance between its
    columns.
    """
    if x.flags.c_contiguous:
        return x, 0, x.shape[1]
    if x.flags.f_contiguous:
        return x, 1, x.shape[0]
    (x,) = whole(x)
    return x, 0, x.shape[1]


@contextmanager
def tf32(xp: ModuleType) -> Iterator[None]:
    """Let CuPy's float32 products, which attention uses, compute in TF32 inside the block."""
    handle, cublas = xp.cuda.device.get_cublas_handle(), xp.cuda.cublas
    before = cublas.getMathMode(handle)
    cublas.setMathMode(handle, MATH_TF32)
    try:
        yield
    finally:
        cublas.setMathMode(handle, before)
