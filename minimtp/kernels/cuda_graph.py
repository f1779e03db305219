"""CUDA graphs: many launches recorded once and then replayed as one.

A decoding step of a small model is a few hundred kernels of a few microseconds each, and launching one from Python costs more
than it takes. A graph is launched at once, but with the very addresses and numbers that were recorded. So whatever changes
from step to step lies in arrays that the graph owns (`inputs`) and is copied there first, positions and tokens included, and
what it computes lies in arrays that it owns too and is copied out.

A step is run normally the first time (which compiles its kernels), and recorded the second time. While it is recorded,
temporary arrays come from a memory pool of its own: nobody else may ever be given their places.
"""

import sys

from minimtp.backend import array_module, numpy

MOST_RECORDED = 16  # tokens of a step: the most that are verified at once


class Graphs:
    """Recorded functions by key."""

    def __init__(self) -> None:
        self._seen: set = set()
        self._recorded: dict = {}
        self._usable = True

    def run(self, key: object, function, *inputs: object) -> tuple:
        """function(*inputs), a tuple of arrays, replayed if `key` was seen before.

        inputs: arrays on the device, and NumPy numbers, which the function gets as arrays of one number on the device. Two
        calls with one key must differ in the inputs only. The function may overwrite its inputs; whether the caller's arrays
        are overwritten is not said.
        """
        if key not in self._recorded:
            xp = array_module(*inputs)
            given = [xp.full(1, value, value.dtype) if isinstance(value, numpy.generic) else value for value in inputs]
            if key not in self._seen or not self._usable:
                self._seen.add(key)
                return function(*given)
            try:
                self._recorded[key] = _Graph(xp, function, given)
            except Exception as error:  # CuPy and the driver have their own families; slower is better than not at all
                self._usable = False
                print(f"minimtp: steps cannot be recorded as CUDA graphs ({error}): decoding is slower", file=sys.stderr)
                return function(*given)
        return self._recorded[key].replay(inputs)


class _Graph:
    def __init__(self, xp, function, inputs: list) -> None:
        self._inputs = [array.copy() for array in inputs]
        xp.cuda.get_current_stream().synchronize()
        self._pool = xp.cuda.MemoryPool()
        stream = xp.cuda.Stream(non_blocking=True)  # the default stream cannot be recorded
        with xp.cuda.using_allocator(self._pool.malloc), stream:
            function(*self._inputs)  # fills the pool, so that nothing has to be allocated while recording
            stream.synchronize()
            stream.begin_capture()
            try:
                self._outputs = function(*self._inputs)
            finally:
                self._graph = stream.end_capture()

    def replay(self, inputs: tuple) -> tuple:
        for mine, given in zip(self._inputs, inputs, strict=True):
            if isinstance(given, numpy.generic):
                mine.fill(given)
            else:
                mine[...] = given
        self._graph.launch()
        return tuple(output.copy() for output in self._outputs)
