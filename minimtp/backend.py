"""Arrays on the CPU (NumPy) or on the GPU (CuPy): the only file that imports either.

The device follows the data. A function that receives an array asks `array_module` which library the array belongs to and
computes there; nothing is switched globally, so both devices live in one process and tests can compare them. A device is
*chosen* in one place only, `choose_device`, where parameters and batches are created, and the choice carries its reason.

Threads have one owner. BLAS workers that spin beside Python threads cost more than they give, so BLAS gets one thread
(set here, before NumPy is loaded, unless the environment says otherwise) and parallelism comes from shards of the
batch, one Python thread each: products, ufuncs and compiled kernels all release the interpreter's lock.
"""

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from minimtp.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
LARGEST_ON_THE_HEAP = (
    32 * 1024 * 1024
)  # bytes of an array: the most that glibc takes for M_MMAP_THRESHOLD
LARGEST_SHARE_OF_GPU = (
    0.9  # of its memory; the rest is for cuBLAS, compiled kernels and CUDA graphs
)
BLAS_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
NUMPY_WAS_LOADED_BEFORE = "numpy" in sys.modules
if not NUMPY_WAS_LOADED_BEFORE and not os.environ.get(
    "OMP_NUM_THREADS"
):  # of every library, unless its own is set beside it
    os.environ.update(
        {variable: "1" for variable in BLAS_THREAD_VARIABLES if not os.environ.get(variable)}
    )

import numpy  # noqa: E402  (the thread variables have to be in place first)

__all__ = [
    "Array", "Device", "array_module", "available_cores", "blas_threads", "blas_threads_warning", "choose_device", "empty_gpu_pool",
    "gpu_pool_bytes", "is_array", "keep_freed_memory", "numpy", "processor", "to_device", "to_numpy",
]  # fmt: skip

# A numpy.ndarray on the CPU or a cupy.ndarray, which has the same interface, on the GPU.
Array: TypeAlias = numpy.ndarray


@dataclass(frozen=True)
class Device:
    """Where new arrays are created: its name, its array library, and why it was chosen."""

    name: str  # "cpu" or "cuda"
    xp: ModuleType
    reason: str


def array_module(*arrays: object) -> ModuleType:
    """The library, `numpy` or `cupy`, that the arrays belong to (CuPy if any of them lives on the GPU)."""
    cupy = sys.modules.get("cupy")  # an array of CuPy's exists only if CuPy was imported
    if cupy is not None and any(isinstance(array, cupy.ndarray) for array in arrays):
        return cupy
    return numpy


def is_array(value: object) -> bool:
    """Whether the value is an array, or a number of NumPy's types, on either device."""
    return isinstance(value, (numpy.ndarray, numpy.generic)) or array_module(value) is not numpy


def choose_device(requested: str = "auto") -> Device:
    """Pick the device that `auto`, `cpu` or `cuda` asks for.

    A GPU counts as usable when an array can be allocated and computed with on it, not when `import cupy` succeeds.

    Raises UserError for an unknown name, and for `cuda` without a usable GPU (saying why it is unusable).
    """
    if requested not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {requested!r}: use auto, cpu or cuda")
    if requested == "cpu":
        return Device("cpu", numpy, "asked for")
    cupy, obstacle = _usable_cupy()
    if cupy is not None:
        _bound_gpu_pool(cupy)
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        return Device("cuda", cupy, f"usable GPU found: {properties['name'].decode()}")
    if requested == "cuda":
        raise UserError(f"--device cuda is not possible here ({obstacle}); use --device cpu")
    return Device("cpu", numpy, f"no usable GPU ({obstacle})")


def _usable_cupy() -> tuple[ModuleType | None, str]:
    """CuPy if sums (its compiler) and products (the library cuBLAS) come out right, else None and the obstacle."""
    try:
        import cupy
    except (
        Exception
    ) as error:  # an installed CuPy fails with more than ImportError: a driver, a version of NumPy
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return None, "CuPy is not installed; the extras are minimtp[cuda12] and minimtp[cuda13]"
        return None, f"CuPy is installed and does not load: {_first_cause(error)}"
    try:
        if int(cupy.arange(3).sum()) != 3:
            return None, "the GPU adds 0 + 1 + 2 wrongly"
        ones = cupy.ones((4, 4), "float32")
        if float((ones @ ones).sum()) != 64.0:
            return None, "the GPU multiplies matrices of ones wrongly"
    except (
        Exception
    ) as error:  # CuPy raises its own, undocumented families here: driver, runtime, compiler
        return None, f"CuPy cannot compute on it: {_first_cause(error)}"
    return cupy, ""


def _first_cause(error: BaseException) -> str:
    """The error that the others were raised from, in one line: CuPy wraps a missing library in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.strip("=- ")), type(error).__name__)


def blas_threads() -> tuple[str, str]:
    """(the variable that says how many threads BLAS has, what it says), the first in BLAS's own order; empty without one."""
    return next(
        ((name, os.environ[name]) for name in BLAS_THREAD_VARIABLES if os.environ.get(name)),
        ("", ""),
    )


def blas_threads_warning() -> str:
    """What to add where threads are reported: nothing, unless NumPy was loaded first, with BLAS free to use its own."""
    if not NUMPY_WAS_LOADED_BEFORE or blas_threads()[1] == "1":
        return ""
    return "; BLAS may use its own as well, which is slower: import minimtp before numpy, or set OMP_NUM_THREADS=1"


def to_numpy(array: object) -> numpy.ndarray:
    """The array in host memory; a NumPy array is returned as it is."""
    return array.get() if array_module(array) is not numpy else numpy.asarray(array)


def to_device(array: object, device: Device) -> object:
    """The array on `device`; nothing is copied when it is already there."""
    return to_numpy(array) if device.name == "cpu" else device.xp.asarray(array)


def _bound_gpu_pool(cupy: ModuleType) -> None:
    """Let the pool's growth have an end: at its limit it gives free blocks back before it takes new ones, so that blocks of
    sizes that nobody asks for any more do not add up in a long run. A limit of the user's (CUPY_GPU_MEMORY_LIMIT) stays.
    """
    pool = cupy.get_default_memory_pool()
    if pool.get_limit() == 0:
        pool.set_limit(fraction=LARGEST_SHARE_OF_GPU)


def gpu_pool_bytes() -> int:
    """GPU memory that CuPy's pool holds, in use or kept for reuse; 0 where CuPy was never loaded."""
    cupy = sys.modules.get("cupy")
    return cupy.get_default_memory_pool().total_bytes() if cupy is not None else 0


def empty_gpu_pool() -> None:
    """Give the GPU memory back that the pool only keeps for reuse."""
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()


def keep_freed_memory() -> bool:
    """Let memory that was freed stay with this process, for its next arrays; False where the C library has no such setting.

    A training step makes the same arrays again and again. glibc gives large ones back to the system as soon as they are freed,
    and the system hands out every page anew, filled with zeros: with `laptop`, 12,000 page faults a step and a twentieth of
    its time, in plain arrays a fifth. Kept, a step's arrays lie where the last step's lay. All threads share one heap, since
    one that has become empty goes back whatever the settings. The process never shrinks then.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows, macOS and musl
        return False
    settings = (
        (M_ARENA_MAX, 1),
        (M_MMAP_THRESHOLD, LARGEST_ON_THE_HEAP),
        (M_TRIM_THRESHOLD, 2**31 - 1),
    )
    return all([mallopt(setting, value) for setting, value in settings])


def available_cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(device: str = "cpu") -> str:
    """The name of the processor, or of the GPU for "cuda", where the system tells.

    With family and model, since virtual machines leave "AMD EPYC" of the name, whatever the generation.
    """
    if device == "cuda":
        import cupy

        return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    if os.path.exists("/proc/cpuinfo"):
        lines = [
            line.split(":", 1)
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if ":" in line
        ]
        said = {name.strip(): value.strip() for name, value in lines}
        if "model name" in said:
            which = [
                f"{key} {said[full]}"
                for key, full in (("family", "cpu family"), ("model", "model"))
                if full in said
            ]
            return said["model name"] + (f" ({', '.join(which)})" if which else "")
    return platform.processor() or platform.machine()
