"""Arrays on the CPU (NumPy) or on the GPU (CuPy): the only file that imports either.

The device follows the data. A function that receives an array asks `array_module` which library the
array belongs to and computes there. Nothing is switched globally, so both devices can be used in
one process and tests can compare them. A device is *chosen* in one place only, `choose_device`,
before parameters and batches are created. The choice carries its reason.

Threads have one owner. BLAS threads that compete with Python threads make training slower. So BLAS
gets one thread, set here before NumPy is loaded, unless the environment says otherwise. Parallelism
comes from shards of the batch, one Python thread each: matrix products, ufuncs and compiled kernels
all release the interpreter's lock.
"""

import ctypes
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeAlias

from minimtp import extras
from minimtp.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h
CACHE_LINE = 64  # bytes
MAX_FLOAT16 = 65504.0  # the largest number of float16
MAX_HEAP_ARRAY = 32 << 20  # bytes; the maximum that glibc accepts for M_MMAP_THRESHOLD
# Share of the GPU's memory. The rest is for cuBLAS, compiled kernels and CUDA graphs.
MAX_POOL_SHARE = 0.9
BLAS_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
NUMPY_WAS_LOADED_BEFORE = "numpy" in sys.modules


def _threads_in(variable: str) -> str:
    """Return the value of a variable of BLAS_THREAD_VARIABLES, "" if it is unset or no number."""
    value = os.environ.get(variable, "")
    # OpenMP accepts a list: one number for each level of nested threads.
    counts = [part.strip() for part in value.split(",")]
    return value if all(re.fullmatch("0*[1-9][0-9]{0,4}", count) for count in counts) else ""


# OMP_NUM_THREADS counts for every BLAS library whose own variable is not set, so it is respected.
if not NUMPY_WAS_LOADED_BEFORE and not _threads_in("OMP_NUM_THREADS"):
    unset = [variable for variable in BLAS_THREAD_VARIABLES if not _threads_in(variable)]
    os.environ.update(dict.fromkeys(unset, "1"))

import numpy  # noqa: E402  (the thread variables must be set first)

__all__ = [
    "Array", "CACHE_LINE", "Device", "MAX_FLOAT16", "aligned_zeros", "array_module", "blas_threads",
    "blas_threads_warning", "can_compile_cuda", "choose_device", "empty_gpu_pool", "gpu_name",
    "gpu_pool_bytes", "is_array", "keep_freed_memory", "numpy", "return_freed_memory",
    "to_device", "to_numpy",
]  # fmt: skip

# A numpy.ndarray on the CPU or a cupy.ndarray, which has the same interface, on the GPU.
Array: TypeAlias = numpy.ndarray


@dataclass(frozen=True)
class Device:
    """The device on which new arrays are created, its array library, and why it was chosen."""

    name: str  # "cpu" or "cuda"
    xp: ModuleType
    reason: str


def array_module(*arrays: Array) -> ModuleType:
    """Return the arrays' library, `numpy` or `cupy`: CuPy if any of them is on the GPU."""
    cupy = sys.modules.get("cupy")  # CuPy arrays exist only if CuPy was imported
    if cupy is not None and any(isinstance(array, cupy.ndarray) for array in arrays):
        return cupy
    return numpy


def is_array(value: object) -> bool:
    """Return whether the value is an array on either device, or a NumPy scalar."""
    return isinstance(value, (numpy.ndarray, numpy.generic)) or array_module(value) is not numpy


def choose_device(requested: str = "auto") -> Device:
    """Return the device for "auto", "cpu" or "cuda".

    A GPU is usable if arrays can be allocated and computed on it. A successful `import cupy` is not
    enough.

    Raises UserError for an unknown name, and for "cuda" if no GPU is usable (with the reason).
    """
    if requested not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {requested!r}: use auto, cpu or cuda")
    if requested == "cpu":
        return Device("cpu", numpy, "requested")
    cupy, obstacle = _usable_cupy()
    if cupy is not None:
        _limit_gpu_pool(cupy)
        return Device("cuda", cupy, f"usable GPU found: {gpu_name()}")
    if requested == "cuda":
        raise UserError(f"--device cuda is not possible here ({obstacle}); use --device cpu")
    return Device("cpu", numpy, f"no usable GPU ({obstacle})")


def _usable_cupy() -> tuple[ModuleType | None, str]:
    """Return CuPy, or None and the reason it is unusable.

    A sum tests its compiler, a matrix product tests cuBLAS.
    """
    cupy, obstacle = extras.find("cupy")
    if obstacle == "is not installed":
        return None, "CuPy is not installed; the extras are minimtp[cuda12] and minimtp[cuda13]"
    if cupy is None:
        return None, f"CuPy {obstacle}"
    try:
        if int(cupy.arange(3).sum()) != 3:
            return None, "the GPU adds 0 + 1 + 2 wrongly"
        ones = cupy.ones((4, 4), "float32")
        if float((ones @ ones).sum()) != 64.0:
            return None, "the GPU multiplies matrices of ones wrongly"
    except Exception as error:  # CuPy has undocumented error classes for driver, runtime, compiler
        return None, f"CuPy cannot compute on it: {extras.first_cause(error)}"
    return cupy, ""


def aligned_zeros(shape: tuple[int, ...], dtype: str = "uint8", xp: ModuleType = numpy) -> Array:
    """Return zeros that begin at a cache line, so that no vector register's load crosses one.

    NumPy does not guarantee this. CuPy does.
    """
    if xp is not numpy:
        return xp.zeros(shape, dtype)
    size = math.prod(shape) * numpy.dtype(dtype).itemsize
    memory = numpy.zeros(size + CACHE_LINE, numpy.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def blas_threads() -> tuple[str, str]:
    """Return the environment variable that sets the number of BLAS threads, and its value: ("", "")
    if none does.

    If several are set, the one that BLAS prefers counts.
    """
    return next(
        ((name, value) for name in BLAS_THREAD_VARIABLES if (value := _threads_in(name))), ("", "")
    )


def blas_threads_warning() -> str:
    """Return a warning for reports of threads if NumPy was loaded first and BLAS may start its own
    threads, else "".
    """
    if not NUMPY_WAS_LOADED_BEFORE or blas_threads()[1] == "1":
        return ""
    return (
        "; BLAS may use its own as well, which is slower: "
        "import minimtp before numpy, or set OMP_NUM_THREADS=1"
    )


def to_numpy(array: Array) -> numpy.ndarray:
    """Return the array in host memory. A NumPy array is returned unchanged."""
    return array.get() if array_module(array) is not numpy else numpy.asarray(array)


def to_device(array: Array, device: Device) -> Array:
    """Return the array on `device`. Nothing is copied if it is already there."""
    return to_numpy(array) if device.name == "cpu" else device.xp.asarray(array)


def can_compile_cuda(xp: ModuleType) -> bool:
    """Return whether the array library compiles CUDA sources. CuPy does. NumPy and stand-ins for
    CuPy do not.
    """
    return hasattr(xp, "RawModule")


def gpu_name() -> str:
    """Return the name of the current GPU. CuPy must be usable."""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


def _limit_gpu_pool(cupy: ModuleType) -> None:
    """Limit the size of CuPy's memory pool, unless the user has set CUPY_GPU_MEMORY_LIMIT.

    At its limit the pool frees unused blocks before it allocates new ones. Without a limit, blocks
    of sizes that are no longer used accumulate in a long run.
    """
    pool = cupy.get_default_memory_pool()
    if pool.get_limit() == 0:
        pool.set_limit(fraction=MAX_POOL_SHARE)


def gpu_pool_bytes() -> int:
    """Return the bytes of GPU memory in CuPy's pool, in use or kept for reuse; 0 if CuPy was never
    loaded.
    """
    cupy = sys.modules.get("cupy")
    return cupy.get_default_memory_pool().total_bytes() if cupy is not None else 0


def empty_gpu_pool() -> None:
    """Free the GPU memory that CuPy's pool keeps for reuse."""
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()


def keep_freed_memory() -> bool:
    """Keep freed memory in this process, for its next arrays. Return False if the C library has no
    such setting.

    Every training step allocates the same arrays. glibc returns large arrays to the system when
    they are freed, and the system clears each page before it hands it out again. With preset
    `laptop` this causes 12,000 page faults per step and takes a twentieth of the time (a fifth with
    plain kernels). If the process keeps freed memory, a step reuses the addresses of the previous
    step. All threads share one heap, because glibc returns an empty heap to the system with any
    settings. After this call, the process shrinks only by `return_freed_memory`.
    """
    mallopt = _function_of_c("mallopt")
    if mallopt is None:
        return False
    settings = ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, MAX_HEAP_ARRAY), (M_TRIM_THRESHOLD, 2**31 - 1))
    return all([mallopt(setting, value) for setting, value in settings])


def return_freed_memory() -> None:
    """Return the memory that `keep_freed_memory` kept to the system, between two tasks."""
    malloc_trim = _function_of_c("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _function_of_c(name: str) -> Callable[..., int] | None:
    """Return a function of the C library. Windows, macOS and musl lack glibc's own."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):
        return None
