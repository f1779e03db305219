"""The machine: its processor, its cores, other work on it, its peak speed, and the versions of the
software. Free memory.
"""

import contextlib
import math
import os
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from time import perf_counter

import minimtp
from minimtp.backend import blas_threads, gpu_name
from minimtp.backend import numpy as np
from minimtp.errors import UserError

CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # microseconds per period of microseconds
BUSY = 0.5  # average number of running processes in the last minute, above which a machine is busy
SIDE = 1024  # size of the square matrices that measure the peak: they fit the cache
PRODUCTS = 8  # of each thread, for one figure


def available_cores() -> int:
    """Return the number of processor cores that this process may use, at least 1.

    A container may limit the processor time instead of the cores. Half a core counts as one.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS and Windows do not restrict processes to cores
        cores = os.cpu_count() or 1
    return max(1, min(cores, _cores_of_container()))


def _cores_of_container() -> int:
    """Return the limit of a Linux container's processor time, rounded up to whole cores."""
    try:
        quota, period = CONTAINER_LIMIT.read_text("utf-8").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no container, or "max": no limit
        return sys.maxsize


def processor(device: str = "cpu") -> str:
    """Return the name of the processor, or of the GPU if `device` is "cuda".

    The name includes family and model on Linux, because virtual machines report "AMD EPYC" for
    every generation.
    """
    if device == "cuda":
        return gpu_name()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        pairs = [line.split(":", 1) for line in lines if ":" in line]
        facts = {name.strip(): value.strip() for name, value in pairs}
        if "model name" in facts:
            labels = (("family", "cpu family"), ("model", "model"))
            details = [f"{label} {facts[key]}" for label, key in labels if key in facts]
            return facts["model name"] + (f" ({', '.join(details)})" if details else "")
    return platform.processor() or platform.machine()


def describe(load: float | None, device: str = "cpu") -> dict[str, str | int | float | None]:
    """Describe the machine for a file of results.

    load: the result of `load` before the measurement. device: the device that was measured, "cpu"
    or "cuda".
    """
    return {
        "processor": processor(device),
        "cores": available_cores(),
        "blas_threads": blas_threads()[1] or None,
        "system": platform.platform(),
        "load_before": load,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, minimtp, and the libraries that this process has loaded."""
    found = {
        "python": platform.python_version(),
        "minimtp": minimtp.__version__,
        "numpy": np.__version__,
    }
    libraries = [name for name in ("numba", "cupy", "torch", "llama_cpp") if name in sys.modules]
    return found | {
        name: str(getattr(sys.modules[name], "__version__", "unknown")) for name in libraries
    }


@cache
def load() -> float | None:
    """Return the average number of running processes in the minute before the first call, or None
    if unknown.

    The first result is kept, because later ones include this process's own work.
    """
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has no such number
        return None


def is_busy(load: float | None) -> bool:
    """Return whether other work disturbs a measurement."""
    return load is not None and load > BUSY


def other_work(machine: dict[str, str | int | float | None]) -> str:
    """Return a clause about other work for a table's caption, or "". machine: from `describe`."""
    load = machine.get("load_before")
    return f", other work running before (load {load:.1f})" if is_busy(load) else ""


def warn_if_busy(load: float | None, report: Callable[[str], None]) -> None:
    """Report that results will be unreliable if other work was running."""
    if is_busy(load):
        report(
            f"the machine was busy before the run (load {load:.1f}), "
            "so these results are unreliable: rerun when it is idle"
        )


def sgemm_gflops(threads: int) -> float:
    """Return the speed of NumPy's float32 matrix product on that many threads, in GFLOP/s.

    Each thread has its own matrices. minimtp keeps BLAS itself on one thread (backend.py), so this
    is an upper bound for the speed of its training.
    """
    a = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    results = [np.empty_like(a) for _ in range(threads)]

    def multiply(result: np.ndarray) -> None:
        for _ in range(PRODUCTS):
            np.matmul(a, a, out=result)

    with ThreadPoolExecutor(threads) as pool:
        began = perf_counter()
        list(pool.map(multiply, results))
        seconds = perf_counter() - began
    return 2 * SIDE**3 * PRODUCTS * threads / seconds / 1e9


def child_environment() -> dict[str, str]:
    """Return an environment in which another Python process finds the modules of this one. Start it
    with -P: otherwise, files of the current folder come first.
    """
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def total_memory() -> int | None:
    """Return the bytes of memory of the machine, or of the container that this process runs in.
    None if the system does not say.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows
        return None
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit
        total = min(total, _container_bytes("max"))
    return total


def _container_bytes(name: str) -> int:
    """Return a number that the kernel tells about the memory of this container."""
    return int(Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii"))


def _container_cache() -> int:
    """Return the bytes of files that the container's memory holds, and would give back."""
    lines = Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if re.match("(in)?active_file ", line))


def available_memory() -> int | None:
    """Return the bytes that this process can still allocate, or None if the system does not say.

    Linux: the memory that no program uses, within the limits of a container and of this process
    (ulimit -v). The page cache counts as free.
    """
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        free = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit
        used = _container_bytes("current") - _container_cache()
        free = min(free, max(0, _container_bytes("max") - used))
    with contextlib.suppress(ImportError, OSError, StopIteration, ValueError):
        import resource  # Windows has none

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free = min(free, max(0, limit - _status_bytes("VmSize:")))
    return free


def require_memory(
    size: int, what: str, advice: str = "close other programs, or use a smaller model"
) -> None:
    """Raise UserError unless `size` bytes are free. what: needs them; begins the message, which
    ends with the advice.
    """
    free = available_memory()
    if free is not None and size > free:
        raise UserError(
            f"{what} needs {size / 2**30:.1f} GiB of memory, but only {free / 2**30:.1f} GiB are "
            f"free: {advice}"
        )


def reset_peak_memory() -> None:
    """Let `peak_memory_bytes` count from now on, where the system allows it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def peak_memory_bytes() -> int | None:
    """Return the largest resident memory of this process since `reset_peak_memory`, in bytes.

    Mapped files count with the pages that were read. None if the system does not tell.
    """
    try:
        return _status_bytes("VmHWM:")
    except (OSError, StopIteration, ValueError):
        return None


def _status_bytes(name: str) -> int:
    """Return a number that Linux tells about the memory of this process."""
    lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
