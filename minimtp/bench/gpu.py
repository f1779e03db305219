"""The measurement of GPU time, and the yardsticks of `minimtp bench ... --device cuda`.

A launch only queues work, and queueing it from Python takes longer than a small kernel runs. Calls
are therefore recorded as a CUDA graph if possible, as in decoding, and the device measures the time
between two events around it.

    copy      bytes read plus bytes written per second, for arrays far larger than the cache
    matmul    operations per second of products of large square matrices, in each training
              precision; a multiplication and an addition count as 2
"""

import statistics
from collections.abc import Callable, Sequence
from types import ModuleType

from minimtp.backend import Array, Device
from minimtp.backend import numpy as np
from minimtp.engine.precision import matmul, matmul_precision, operand, require
from minimtp.errors import UserError
from minimtp.kernels.cuda.graph import Recording
from minimtp.training.recipe import PRECISIONS

TIMES = 10  # launches of a recording per result
SIDE = 8192  # side of the square matrices
CACHES = 4  # size of the copied array, as a multiple of the cache


def seconds(
    xp: ModuleType, calls: Sequence[Callable[[], object]], times: int | None = None
) -> float:
    """Return the device seconds per call, averaged over `calls`; the median of `times` launches."""

    def run() -> list[object]:
        return [call() for call in calls]

    try:
        launch = Recording(xp, run).launch
    # A library call may be impossible to record. CuPy and the driver raise different classes.
    except Exception:
        launch = run
    return median_elapsed(xp, launch, times or TIMES) / len(calls)


def elapsed(xp: ModuleType, run: Callable[[], object]) -> float:
    """Return the device seconds from before run() until everything it launched has finished."""
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return xp.cuda.get_elapsed_time(start, end) / 1e3


def median_elapsed(xp: ModuleType, run: Callable[[], object], times: int) -> float:
    """Return the median of `times` measurements after one warm-up."""
    run()
    return statistics.median(elapsed(xp, run) for _ in range(times))


def noise(xp: ModuleType, rows: int, columns: int) -> Array:
    """Return float32 (rows, columns), spread evenly over [-0.5, 0.5).

    Constant matrices would use less power, so the GPU would run faster than on real weights.
    """
    scattered = xp.arange(rows * columns, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(8)
    values = scattered.astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)
    return values.reshape(rows, columns)


def cache_bytes(xp: ModuleType) -> int:
    """Return the size of the level 2 cache."""
    return xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["l2CacheSize"]


def copy_gigabytes_per_second(xp: ModuleType) -> float:
    """Return the bytes read plus bytes written per second."""
    source = xp.ones(CACHES * cache_bytes(xp) // 4, np.float32)
    target = xp.empty_like(source)
    return 2 * source.nbytes / median_elapsed(xp, lambda: xp.copyto(target, source), TIMES) / 1e9


def matrix_gflops(device: Device, precision: str) -> float:
    """Return the GFLOP/s in a training precision. Raises UserError if the GPU does not have it."""
    a = noise(device.xp, SIDE, SIDE)
    with matmul_precision(precision, device):
        left, right = operand(a), operand(a)
        return 2 * SIDE**3 / median_elapsed(device.xp, lambda: matmul(left, right), TIMES) / 1e9


def matrix_gflops_by_precision(device: Device) -> dict[str, float]:
    """Return the GFLOP/s by precision, for every precision that the GPU has."""
    available = [precision for precision in PRECISIONS if is_available(precision, device)]
    return {precision: matrix_gflops(device, precision) for precision in available}


def is_available(precision: str, device: Device) -> bool:
    """Return whether the GPU can multiply in this precision."""
    try:
        require(precision, device)
    except UserError:
        return False
    return True
