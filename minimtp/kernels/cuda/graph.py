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

MOST_KEPT = 64  # graphs: those of four caches, each has up to `Graphs.most_tokens`


class Graphs:
    """Recorded functions by key, those used last: a long run meets ever new caches, and each graph holds memory."""

    most_tokens = 16  # of a step that is worth a graph: the most that are verified at once

    def __init__(self) -> None:
        self._kept: dict = {}  # None for what was seen once; the one used last stands last
        self._usable = True

    def run(self, key: object, function, *inputs: object) -> tuple:
        """function(*inputs), a tuple of arrays, replayed if `key` was seen before.

        inputs: arrays on the device, and NumPy numbers, which the function gets as arrays of one number on the device. Two
        calls with one key must differ in the inputs only. The function may overwrite its inputs; whether the caller's arrays
        are overwritten is not said.
        """
        seen, graph = key in self._kept, self._kept.pop(key, None)
        if graph is None:
            xp = array_module(*inputs)
            given = [
                xp.full(1, value, value.dtype) if isinstance(value, numpy.generic) else value
                for value in inputs
            ]
            if seen and self._usable:
                try:
                    graph = _Graph(xp, function, given)
                except Exception as error:  # CuPy and the driver have their own families; slower is better than not at all
                    self._usable = False
                    print(
                        f"minimtp: steps cannot be recorded as CUDA graphs ({error}): decoding is slower",
                        file=sys.stderr,
                    )
            if len(self._kept) == MOST_KEPT:
                xp.cuda.Device().synchronize()  # it may still be running
                del self._kept[next(iter(self._kept))]
        self._kept[key] = graph
        return function(*given) if graph is None else graph.replay(inputs)

    def recorded(self) -> int:
        """How many graphs are kept."""
        return sum(graph is not None for graph in self._kept.values())


class Recording:
    """What a function without arguments launches, with the memory that it uses; `outputs` is what it returned."""

    def __init__(self, xp, function) -> None:
        xp.cuda.get_current_stream().synchronize()
        self._pool = xp.cuda.MemoryPool()
        stream = xp.cuda.Stream(non_blocking=True)  # the default stream cannot be recorded
        with xp.cuda.using_allocator(self._pool.malloc), stream:
            function()  # fills the pool, so that nothing has to be allocated while recording
            stream.synchronize()
            stream.begin_capture()
            try:
                self.outputs = function()
            finally:
                self._graph = stream.end_capture()

    def launch(self) -> None:
        """Run it all once more, on the current stream."""
        self._graph.launch()


class _Graph:
    def __init__(self, xp, function, inputs: list) -> None:
        self._inputs = [array.copy() for array in inputs]
        self._recording = Recording(xp, lambda: function(*self._inputs))

    def replay(self, inputs: tuple) -> tuple:
        for mine, given in zip(self._inputs, inputs, strict=True):
            if isinstance(given, numpy.generic):
                mine.fill(given)
            else:
                mine[...] = given
        self._recording.launch()
        return tuple(output.copy() for output in self._recording.outputs)
