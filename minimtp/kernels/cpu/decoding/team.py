"""Threads that compute one forward pass together.

Each thread computes a share of the outputs of every matrix product, and all wait for one another
before one of them reads what the others have written. A pass of a model with 30 blocks takes a few
milliseconds and has 150 such meetings, so they cost nothing but a few accesses to memory: a thread
counts itself in, then reads the counter until everybody is there. No share of a sum is added to
another, so the bits of a result do not depend on the number of threads.
"""

import contextlib
import platform
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled

__all__ = ["Team", "meet", "share"]

PATIENCE = 50_000  # reads of the counter before another program may have this core
IS_X86 = platform.machine().lower() in ("x86_64", "amd64", "x86")
CAN_YIELD = platform.system() != "Windows"


class Team:
    """`size` threads, the caller's among them, for one pass at a time.

    The other threads start with the first pass and end with the team.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._counter = np.zeros(1, np.int64)  # only ever counts up
        self._busy = threading.Lock()
        self._queues: list[SimpleQueue] = []

    def run(self, work: Callable[[int, int, np.ndarray], None]) -> bool:
        """Call work(rank, size, counter) once in each thread. Return whether that was possible: not
        if another thread's pass is running.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            if not self._queues:
                self._start()
            for rank, queue in enumerate(self._queues, 1):
                queue.put((work, rank, self.size, self._counter))
            work(0, self.size, self._counter)
        finally:
            self._busy.release()
        return True

    def _start(self) -> None:
        self._queues = [SimpleQueue() for _ in range(self.size - 1)]
        for queue in self._queues:
            threading.Thread(target=_serve, args=(queue,), daemon=True).start()
            weakref.finalize(self, queue.put, None)


def _serve(queue: SimpleQueue) -> None:
    while (call := queue.get()) is not None:
        work, rank, size, counter = call
        with contextlib.suppress(ValueError):  # the caller raises it, too
            work(rank, size, counter)
        del work, counter, call  # the thread waits without holding arrays


@compiled
def share(count, rank, size):
    """Return the first of `count` things that belong to the thread `rank`, and the one after its
    last.
    """
    if size == 1:  # saves a small model's pass two divisions for each product
        return 0, count
    return count * rank // size, count * (rank + 1) // size


@compiled
def meet(counter, size):
    """Wait until all threads are here."""
    if size == 1:
        return
    everybody = (_count(counter) // size + 1) * size
    reads = 0
    while _current(counter) < everybody:
        reads += 1
        _pause()
        if reads >= PATIENCE:
            reads = 0
            _yield()


@intrinsic
def _count(context, counter):
    """Add 1 to counter[0], as one step that no other thread divides. Return the number before."""

    def generate(context, builder, signature, arguments):
        pointer = _address(context, builder, signature, arguments)
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", pointer, one, "seq_cst")

    return types.int64(counter), generate


@intrinsic
def _current(context, counter):
    """Return counter[0], read from memory each time."""

    def generate(context, builder, signature, arguments):
        pointer = _address(context, builder, signature, arguments)
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(counter), generate


def _address(context, builder, signature, arguments):
    return context.make_array(signature.args[0])(context, builder, arguments[0]).data


@intrinsic
def _pause(context):
    """Tell the processor that this loop waits for another core."""

    def generate(context, builder, signature, arguments):
        if IS_X86:
            nothing = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, name), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _yield(context):
    """Let the operating system run another thread on this core."""

    def generate(context, builder, signature, arguments):
        if CAN_YIELD:
            number = ir.FunctionType(ir.IntType(32), [])
            name = "sched_yield"
            builder.call(cgutils.get_or_insert_function(builder.module, number, name), [])
        return context.get_dummy_value()

    return types.void(), generate
