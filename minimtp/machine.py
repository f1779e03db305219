"""What the figures of a measurement depend on: the machine, how busy it was, what it can do, and the versions of what ran."""

import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from time import perf_counter

import minimtp
from minimtp.backend import available_cores, blas_threads, processor
from minimtp.backend import numpy as np

BUSY = 0.5  # processes that were running on average in the last minute
SIDE = 1024  # of the square matrices whose product is the peak: they fit the cache, and are large enough for BLAS


def describe(load: float | None, device: str = "cpu") -> dict[str, object]:
    """The machine, with the `load` that was found before the measurement; its processor is the one that was measured."""
    return {
        "processor": processor(device), "cores": available_cores(), "blas_threads": blas_threads()[1] or None,
        "system": platform.platform(), "load_before": load,
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of Python, of minimtp, and of the libraries that this process has loaded, peers among them."""
    found = {
        "python": platform.python_version(),
        "minimtp": minimtp.__version__,
        "numpy": np.__version__,
    }
    libraries = [name for name in ("numba", "cupy", "torch", "llama_cpp") if name in sys.modules]
    return found | {name: str(sys.modules[name].__version__) for name in libraries}


@cache
def load() -> float | None:
    """Processes that were running on average in the minute before this one first asked: later, they are its own. None where
    the system does not tell.
    """
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def is_busy(load: float | None) -> bool:
    """Whether other work disturbs what is measured."""
    return load is not None and load > BUSY


def other_work(machine: dict[str, object]) -> str:
    """What a table says of other work, from what `describe` found; nothing where there was none."""
    load = machine.get("load_before")
    return f", other work running before (load {load:.1f})" if is_busy(load) else ""


def warn_if_busy(load: float | None, report: Callable[[str], None]) -> None:
    """Say that the figures are worth nothing where other work was running."""
    if is_busy(load):
        report(
            f"the machine was busy before (load {load:.1f}): believe no figure, and measure again when it is quiet"
        )


def sgemm_gflops(threads: int, products: int = 8) -> float:
    """What NumPy's float32 product reaches on that many threads, each with matrices of its own, in GFLOP/s.

    minimtp keeps BLAS itself on one thread (backend.py), so this is how its training could use the cores at best.
    """
    a = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    results = [np.empty_like(a) for _ in range(threads)]

    def multiply(result: np.ndarray) -> None:
        for _ in range(products):
            np.matmul(a, a, out=result)

    with ThreadPoolExecutor(threads) as pool:
        began = perf_counter()
        list(pool.map(multiply, results))
        return 2 * SIDE**3 * products * threads / (perf_counter() - began) / 1e9
