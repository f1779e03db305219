"""How a GPU's time is taken, and what it can do at best: the yardsticks of `minimtp bench ... --device cuda`.

A launch only asks for work, and asking from Python takes longer than a small kernel runs. So calls are recorded as a CUDA graph
where they can be, as decoding runs them, and the device itself takes the time between two events around it.

    copying      bytes read plus bytes written a second, of arrays far larger than the cache: what the memory can deliver
    multiplying  operations a second of products of large square matrices, 2 for a multiplication and an addition, in each of
                 the precisions of training
"""

import statistics
from collections.abc import Callable, Sequence
from types import ModuleType

from minimtp.backend import Device
from minimtp.backend import numpy as np
from minimtp.engine.precision import matmul, matmul_precision, operand, require
from minimtp.errors import UserError
from minimtp.kernels.cuda.graph import Recording
from minimtp.training.recipe import PRECISIONS

TIMES = 10  # that a recording is launched for one figure
SIDE = 8192  # of the square matrices
CACHES = 4  # the copied array is as many times as large as the cache


def seconds(
    xp: ModuleType, calls: Sequence[Callable[[], object]], times: int | None = None
) -> float:
    """Seconds of the device for one of the calls, on average over all of them; the median of `times` launches (TIMES)."""

    def run() -> list[object]:
        return [call() for call in calls]

    try:
        launch = Recording(xp, run).launch
    except Exception:  # a library's own call may be none that can be recorded; CuPy and the driver have families of their own
        launch = run
    return median_elapsed(xp, launch, times or TIMES) / len(calls)


def elapsed(xp: ModuleType, run: Callable[[], object]) -> float:
    """Seconds of the device from before run() to after all that it launched."""
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return xp.cuda.get_elapsed_time(start, end) / 1e3


def median_elapsed(xp: ModuleType, run: Callable[[], object], times: int) -> float:
    """Median of so many; the first is not counted."""
    run()
    return statistics.median(elapsed(xp, run) for _ in range(times))


def noise(xp: ModuleType, rows: int, columns: int) -> object:
    """float32 (rows, columns) from -0.5 to 0.5, scattered evenly: constants would cost less power, so less time."""
    scattered = xp.arange(rows * columns, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(8)
    return (scattered.astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)).reshape(
        rows, columns
    )


def cache_bytes(xp: ModuleType) -> int:
    """Of the level 2 cache."""
    return xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["l2CacheSize"]


def copy_gigabytes_per_second(xp: ModuleType) -> float:
    """Bytes read plus bytes written."""
    source = xp.ones(CACHES * cache_bytes(xp) // 4, np.float32)
    target = xp.empty_like(source)
    return 2 * source.nbytes / median_elapsed(xp, lambda: xp.copyto(target, source), TIMES) / 1e9


def matrix_gflops(device: Device, precision: str) -> float:
    """In a precision of training. Raises UserError for one that the GPU does not have."""
    a = noise(device.xp, SIDE, SIDE)
    with matmul_precision(precision, device):
        left, right = operand(a), operand(a)
        return 2 * SIDE**3 / median_elapsed(device.xp, lambda: matmul(left, right), TIMES) / 1e9


def matrix_gflops_by_precision(device: Device) -> dict[str, float]:
    """In each of them that the GPU has."""
    return {
        precision: matrix_gflops(device, precision)
        for precision in PRECISIONS
        if possible(precision, device)
    }


def possible(precision: str, device: Device) -> bool:
    """Whether the GPU multiplies so."""
    try:
        require(precision, device)
    except UserError:
        return False
    return True
