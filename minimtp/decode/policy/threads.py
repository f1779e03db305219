"""The number of threads that compute a forward pass: the one that is measured to be fastest.

A pass over one token of a large model reads its weights from memory, and a single core often cannot
read as fast as the memory delivers. A pass of a small model is over before other threads are awake.
Cores may also be busy with other programs, or be two halves of one. So no formula gives the number.
The texts have the same bits with any.
"""

from statistics import median
from time import perf_counter

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.model_runner import ModelRunner
from minimtp.machine import available_cores

SMALL = 16_000_000  # bytes of weights that one thread multiplies in about a millisecond
ROWS = 1, 4  # of the measured passes: plain decoding and verification
MIN_REPEATS, MAX_REPEATS = 2, 8
MAX_SECONDS = 0.25  # after this time, two repeats are enough
GAIN = 1.05  # that makes up for the cores that more threads keep busy


def fastest_threads(runner: ModelRunner) -> int:
    """Return the number of threads, at most one per core, with which the passes of `runner` are
    fastest. Its cache does not change.
    """
    limit = available_cores()
    on_gpu = array_module(runner.final_norm) is not np
    if limit == 1 or on_gpu or runner.weight_bytes < SMALL or not runner.rows_at_once:
        return 1
    best = 1
    for count in _candidates(limit):
        fewer, more = _seconds(runner, best, count)
        if more * GAIN < fewer:
            best = count
    return best


def _candidates(limit: int) -> list[int]:
    """Return 2, 4, 8, ... and the limit."""
    return sorted({min(2**power, limit) for power in range(1, limit.bit_length() + 1)})


def _seconds(runner: ModelRunner, first: int, second: int) -> tuple[float, float]:
    """Return the seconds of the passes with either number of threads, measured in turn."""
    runners = []
    for count in (first, second):
        runners.append(runner.clone())
        runners[-1].use_threads(count)
    totals = [0.0, 0.0]
    stop = perf_counter() + MAX_SECONDS
    for rows in ROWS:
        tokens = np.zeros(rows, np.int64)
        times: tuple[list[float], list[float]] = ([], [])
        while len(times[0]) < MIN_REPEATS or (
            len(times[0]) < MAX_REPEATS and perf_counter() < stop
        ):
            for each, found in zip(runners, times, strict=True):
                began = perf_counter()
                each.forward(tokens)
                found.append(perf_counter() - began)
                each.truncate(0)
        for i, found in enumerate(times):
            totals[i] += median(found[1:])  # the first wakes the threads
    return totals[0], totals[1]
