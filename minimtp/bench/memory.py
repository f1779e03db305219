"""The peak memory of decoding."""

import gc
import tracemalloc
from collections.abc import Callable

from minimtp.backend import empty_gpu_pool, gpu_pool_bytes
from minimtp.backend import numpy as np
from minimtp.bench.interleaved import Variant, run_once
from minimtp.decode.sampling.params import GREEDY


def peak_memory(build: Callable[[], Variant], prompt: np.ndarray, max_new_tokens: int) -> int:
    """Return the peak memory in bytes of greedy decoding of one sequence: weights, cache, tables
    and buffers.

    Counts host memory as Python's allocators see it, minus what was allocated before `build`: NumPy
    arrays and the arrays of compiled kernels, but not mapped files. On a GPU, adds the growth of
    the memory pool.
    """
    empty_gpu_pool()
    pool_before = gpu_pool_bytes()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        variant = build()
        gc.collect()
        tracemalloc.reset_peak()
        run_once(variant, prompt, max_new_tokens, GREEDY, 0)
        host = tracemalloc.get_traced_memory()[1] - before
        return host + gpu_pool_bytes() - pool_before
    finally:
        tracemalloc.stop()
