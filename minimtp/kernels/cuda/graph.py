"""CUDA graphs: many launches recorded once and then replayed as one.

A decoding step of a small model is a few hundred kernels of a few microseconds each. Launching a
kernel from Python takes longer than running it. A graph is launched in one call, but it always uses
the addresses and numbers that were recorded. So everything that changes from step to step,
positions and tokens included, is first copied to arrays that the graph owns (`inputs`). The graph
also owns the arrays of its results, which are then copied.

A step is run normally the first time, which compiles its kernels, and recorded the second time.
While it is recorded, temporary arrays come from a separate memory pool, so that no other array is
ever given their addresses.
"""

import sys
from collections.abc import Callable, Hashable

from minimtp.backend import Array, array_module, numpy

MAX_KEPT = 64  # graphs: enough for four caches with `Graphs.max_tokens` graphs each


class Graphs:
    """Recorded functions by key. Only the most recently used ones are kept, because each graph
    holds memory and a long run keeps creating new caches.
    """

    max_tokens = 16  # maximum in a recorded step; a verification never has more

    def __init__(self) -> None:
        self._kept: dict = {}  # graphs by key, None after one call; the most recently used is last
        self._usable = True

    def run(
        self, key: Hashable, function: Callable[..., tuple[Array, ...]], *inputs: Array
    ) -> tuple[Array, ...]:
        """Return function(*inputs), a tuple of arrays. Replays the recorded graph if `key` was seen
        before.

        inputs: arrays on the device, and NumPy numbers, which the function receives as device
        arrays of one number. Calls with the same key may differ in the inputs only. The function
        may overwrite its inputs. It is undefined whether this overwrites the caller's arrays.
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
                except Exception as error:  # CuPy or the driver failed: continue without graphs
                    self._usable = False
                    print(
                        f"minimtp: CUDA graphs cannot be recorded ({error}): decoding is slower",
                        file=sys.stderr,
                    )
            if len(self._kept) == MAX_KEPT:
                xp.cuda.Device().synchronize()  # it may still be running
                del self._kept[next(iter(self._kept))]
        self._kept[key] = graph
        return function(*given) if graph is None else graph.replay(inputs)

    def recorded(self) -> int:
        """Return the number of recorded graphs."""
        return sum(graph is not None for graph in self._kept.values())


class Recording:
    """The recorded launches of a function without arguments, and the memory that they use.
    `outputs`: its return value.
    """

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
        """Replay the recorded launches on the current stream."""
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
